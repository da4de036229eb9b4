"""Hashes of passwords."""

import pytest

from customer_service.passwords import Passwords
from customer_service.settings import Settings


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords(Settings(customers_database_url="", argon2_time_cost=1, argon2_memory_kib=64))


def test_matches_only_the_password(passwords: Passwords) -> None:
    stored = passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert passwords.matches(stored, "correct horse")
    assert not passwords.matches(stored, "correct horse ")
    assert stored != passwords.hash("correct horse")


def test_nobody_has_no_password_at_all(passwords: Passwords) -> None:
    assert not passwords.matches(None, "nobody has this password")


def test_a_damaged_hash_matches_nothing(passwords: Passwords) -> None:
    assert not passwords.matches("$argon2id$broken", "x")


def test_cheaper_hashes_are_renewed(passwords: Passwords) -> None:
    dearer = Passwords(Settings(customers_database_url="", argon2_time_cost=2, argon2_memory_kib=64))
    assert dearer.is_outdated(passwords.hash("correct horse"))
    assert not passwords.is_outdated(passwords.hash("correct horse"))
