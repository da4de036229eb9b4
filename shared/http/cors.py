"""Pages of other origins: none may read our answers but those on the list (Fetch standard, CORS protocol).

Callers say who they are with a token that the page itself holds, never with a cookie, so credentials are not allowed to
any origin, and `*` to none.
"""

import re
from collections.abc import Sequence

from shared.http.answer_headers import Headers
from shared.http.lists import entries

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", re.ASCII)
_SENT = b"Authorization, Content-Type, Idempotency-Key, Prefer, X-Correlation-ID, X-Second-Factor, traceparent"
_READ = (
    b"Idempotent-Replayed, Preference-Applied, Retry-After, WWW-Authenticate, X-Correlation-ID, X-Customer-Tier, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, traceparent"
)
_PREFLIGHT_KEPT_SECONDS = 600


class CorsPolicy:
    """From text such as `https://app.example.com, http://localhost:5173`; empty, the default, is nobody.

    Raises:
        ValueError: an entry is no origin: a scheme, a name in lower case, perhaps a port, and nothing after it.
    """

    def __init__(self, text: str = "") -> None:
        self._origins = frozenset(entry.encode() for entry in entries(text))
        for origin in self._origins:
            if not _ORIGIN.fullmatch(origin.decode()):
                raise ValueError("an origin is like https://app.example.com; `*` is none")

    def headers(self, request: Sequence[tuple[bytes, bytes]]) -> Headers:
        """What an answer says to the page that asked, if it is on the list. That it depends on the page is said always,
        for caches."""
        if not self._origins:
            return []
        varies = (b"vary", b"Origin")
        origin = self._allowed(request)
        if origin is None:
            return [varies]
        return [varies, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _READ)]

    def preflight(self, method: str, request: Sequence[tuple[bytes, bytes]], allowed: Sequence[str]) -> Headers | None:
        """The answer's headers if this asks, for a page on the list, whether it may call a path that knows the methods
        `allowed`; else None."""
        asks = any(name == b"access-control-request-method" for name, _ in request)
        if method != "OPTIONS" or not asks or not allowed or self._allowed(request) is None:
            return None
        return [
            (b"access-control-allow-methods", ", ".join(allowed).encode()),
            (b"access-control-allow-headers", _SENT),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_KEPT_SECONDS),
        ]

    def _allowed(self, request: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        origins = [value for name, value in request if name == b"origin"]
        return origins[0] if len(origins) == 1 and origins[0] in self._origins else None
