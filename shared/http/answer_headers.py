"""The headers that every answer has, whichever layer gives it: the edge, the server for what is not HTTP, the gateway."""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

_ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_UNLESS_SAID: Headers = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
_HTTPS: Headers = [(b"strict-transport-security", b"max-age=63072000; includeSubDomains")]


def secured(headers: Iterable[tuple[bytes, bytes]], *, https: bool = False) -> Headers:
    """`headers` (names in lower case) and those that protect whoever reads the answer.

    Args:
        https: the caller came over TLS; only then may he be told to do so for ever (RFC 6797, 7.2).
    """
    found = list(headers)
    present = {name for name, _ in found}
    found += [entry for entry in _UNLESS_SAID if entry[0] not in present]
    return found + _ALWAYS + (_HTTPS if https else [])
