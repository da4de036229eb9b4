"""One root for every refusal. A service's `errors.py` holds children named as facts; `shared.http.problems` renders
them.

A class's docstring is the text of its page `/problems/<code>`, so it is written for the caller.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one value. `pointer` is a JSON pointer into the body, or `/query/<name>`; `detail` never
    holds the input."""

    pointer: str
    detail: str


class BrokageError(Exception):
    """Something went wrong on our side. It was recorded; repeating the request later may work."""

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **fields: str | int | bool | None,
    ) -> None:
        """`fields` are the ids involved; they become members of the problem, so they must be ones the caller may
        know."""
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.fields = fields
        super().__init__(self.detail)


class MalformedJson(BrokageError):
    """The body is not the strict JSON this API reads: UTF-8 without BOM, no duplicate keys, nested at most 32 deep,
    no NaN, Infinity or
    numbers beyond a double, no NUL character and no lone surrogate, nothing after the document."""

    code = "malformed-json"
    status = 400
    title = "Malformed JSON"


class BadRequest(BrokageError):
    """The request is not valid HTTP for this server, for instance because it has no Host header or several."""

    code = "bad-request"
    status = 400
    title = "Bad request"


class InvalidToken(BrokageError):
    """The call needs an access token, and the request has none, or one that is expired, revoked or not ours. Sign in at
    `POST /api/auth/token` and send `Authorization: Bearer <access_token>`."""

    code = "invalid-token"
    status = 401
    title = "Not signed in"

    def __init__(
        self, detail: str | None = None, *, presented: bool = False, **fields: str | int | bool | None
    ) -> None:
        challenge = 'Bearer realm="brokage"' + (', error="invalid_token"' if presented else "")
        super().__init__(detail, errors=(), headers={"WWW-Authenticate": challenge}, **fields)


class NotPermitted(BrokageError):
    """You are signed in, but your role may not use this call at all."""

    code = "not-permitted"
    status = 403
    title = "Not permitted"


class NotFound(BrokageError):
    """There is no such thing, or it is not yours to see; the answer is the same for both."""

    code = "not-found"
    status = 404
    title = "Not found"


class MethodNotAllowed(BrokageError):
    """The path exists but not with this method; the `Allow` header names those that do."""

    code = "method-not-allowed"
    status = 405
    title = "Method not allowed"


class Conflict(BrokageError):
    """The request contradicts the present state of the thing."""

    code = "conflict"
    status = 409
    title = "Conflict"


class PayloadTooLarge(BrokageError):
    """Bodies are limited to 64 KiB."""

    code = "payload-too-large"
    status = 413
    title = "Body too large"


class UriTooLong(BrokageError):
    """The address of a request, query included, is limited to 8 KiB."""

    code = "uri-too-long"
    status = 414
    title = "Address too long"


class UnsupportedMediaType(BrokageError):
    """Send `Content-Type: application/json` (UTF-8), without a content encoding; the token endpoints take
    `application/x-www-form-urlencoded`."""

    code = "unsupported-media-type"
    status = 415
    title = "Unsupported media type"


class ValidationFailed(BrokageError):
    """The request was understood, but a value in it cannot be; `errors` says which and why. Nothing was stored."""

    code = "validation-error"
    status = 422
    title = "Invalid request"


class UnknownField(ValidationFailed):
    """The request has a field or query parameter that this call does not know, or one that is repeated. Nothing was
    stored."""

    code = "unknown-field"
    title = "Unknown field"


class RateLimited(BrokageError):
    """You have used up your requests for now. `Retry-After` says when the next one will be served; `X-RateLimit-*`
    how many you have."""

    code = "rate-limited"
    status = 429
    title = "Too many requests"


class HeadersTooLarge(BrokageError):
    """The headers of a request are limited to 16 KiB together."""

    code = "headers-too-large"
    status = 431
    title = "Headers too large"


class ServiceUnavailable(BrokageError):
    """Something this call needs is down at the moment. Repeat it after `Retry-After` seconds, with the same
    `Idempotency-Key`."""

    code = "service-unavailable"
    status = 503
    title = "Temporarily unavailable"

    def __init__(
        self, detail: str | None = None, *, retry_after_seconds: int = 1, **fields: str | int | bool | None
    ) -> None:
        super().__init__(detail, errors=(), headers={"Retry-After": str(retry_after_seconds)}, **fields)


class NotYetKnown(ServiceUnavailable):
    """Your account is so new that this service has not heard of it yet. Repeat the call in a moment."""

    code = "not-yet-known"
    title = "Not yet known here"


def known_errors() -> dict[str, type[BrokageError]]:
    """Every error of the running program by code; the most general class where several share one."""
    found: dict[str, type[BrokageError]] = {}
    waiting = [BrokageError]
    while waiting:
        error = waiting.pop(0)
        found.setdefault(error.code, error)
        waiting.extend(error.__subclasses__())
    return found
