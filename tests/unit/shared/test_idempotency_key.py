"""Keys and digests."""

import pytest

from shared.idempotency import IdempotencyKeyInvalid, KeyScope, digest_of, parse_key


@pytest.mark.parametrize("headers", [[""], ["x" * 129], ["a b"], ["a\tb"], ["ä"], ["a", "b"], ["a\x7f"]])
def test_invalid(headers: list[str]) -> None:
    with pytest.raises(IdempotencyKeyInvalid):
        parse_key(headers)


def test_valid_or_absent() -> None:
    assert parse_key([]) is None
    assert parse_key(["x" * 128]) == "x" * 128


def test_digest_is_of_values_not_of_bytes() -> None:
    assert digest_of("/a", {"x": 1, "y": ["2"]}) == digest_of("/a", {"y": ["2"], "x": 1})
    assert digest_of("/a", {"x": 1}) != digest_of("/b", {"x": 1})
    assert digest_of("/a", {"x": "1"}) != digest_of("/a", {"x": 1})
    assert digest_of("/a", None) != digest_of("/a", {})


def test_digest_is_no_way_to_try_passwords() -> None:
    assert digest_of("/a", {"password": "a"}) == digest_of("/a", {"password": "b"})


def test_marks_of_different_scopes_differ() -> None:
    scopes = [
        KeyScope("1", "POST", "/a", "k"),
        KeyScope("2", "POST", "/a", "k"),
        KeyScope("1", "PUT", "/a", "k"),
        KeyScope("1", "POST", "/b", "k"),
        KeyScope("1", "POST", "/a", "l"),
    ]
    assert len({scope.mark for scope in scopes}) == len(scopes)
