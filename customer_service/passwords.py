"""Argon2id hashes of passwords. Slow on purpose, so never on the event loop, and never inside a transaction."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from customer_service.settings import Settings


class Passwords:
    """Hashes and verifies with the costs of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        # Verified against when there is no such user, so that the answer takes as long.
        self._nobody = self._hasher.hash("nobody has this password")

    def hash(self, password: str) -> str:
        return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one of the hash `stored`; None stands for no such user and takes the same time."""
        try:
            self._hasher.verify(stored or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether the settings ask for other costs by now; the hash is then renewed at sign-in."""
        return self._hasher.check_needs_rehash(stored)
