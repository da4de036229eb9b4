"""Every error as RFC 9457 problem+json, and the pages that explain them. Nothing here repeats what the caller sent."""

import html
import inspect
import re
from collections.abc import Sequence
from typing import Any

import psycopg
import pymongo.errors
import redis.exceptions
from fastapi.exceptions import RequestValidationError
from psycopg import errors as sql

from shared import json
from shared.db.engine import DatabaseUnavailable, is_transient
from shared.db.page import InvalidCursor
from shared.errors import (
    BadRequest,
    BrokageError,
    FieldError,
    NotFound,
    ServiceUnavailable,
    UnknownField,
    ValidationFailed,
    known_errors,
)

MEDIA_TYPE = b"application/problem+json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,64}\Z")
_UNAVAILABLE: tuple[type[Exception], ...] = (
    DatabaseUnavailable,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    pymongo.errors.ConnectionFailure,
    pymongo.errors.ExecutionTimeout,
    # The database answers, but will not do its work: read-only, out of space, a right withdrawn, too slow.
    sql.QueryCanceled,
    sql.ReadOnlySqlTransaction,
    sql.InsufficientResources,
    sql.InsufficientPrivilege,
    sql.TransactionTimeout,
    TimeoutError,
)

# Texts of our own: pydantic's may quote the input. What is not listed gets the last resort.
_DETAILS = {
    "missing": "This value is required.",
    "extra_forbidden": "This field is not known here.",
    "string_type": "This must be a string.",
    "int_type": "This must be a whole number.",
    "bool_type": "This must be true or false.",
    "dict_type": "This must be an object.",
    "model_type": "This must be an object.",
    "model_attributes_type": "This must be an object.",
    "list_type": "This must be a list.",
    "string_pattern_mismatch": "This is not of the required form.",
    "timezone_aware": "This must say its offset from UTC.",
}
_BOUNDS = {
    "greater_than": ("gt", "This must be greater than {}."),
    "greater_than_equal": ("ge", "This must be at least {}."),
    "less_than": ("lt", "This must be less than {}."),
    "less_than_equal": ("le", "This must be at most {}."),
    "string_too_short": ("min_length", "This must have at least {} characters."),
    "string_too_long": ("max_length", "This must have at most {} characters."),
    "enum": ("expected", "This must be {}."),
    "literal_error": ("expected", "This must be {}."),
}


def translate(error: Exception) -> BrokageError | None:
    """The refusal that an exception stands for; None for a bug."""
    if isinstance(error, BrokageError):
        return error
    if isinstance(error, RequestValidationError):
        return validation_problem(error.errors())
    if isinstance(error, InvalidCursor):
        return ValidationFailed(errors=[FieldError("/query/cursor", "This collection gave out no such cursor.")])
    if isinstance(error, _UNAVAILABLE) or (isinstance(error, psycopg.Error) and is_transient(error)):
        return ServiceUnavailable()
    return None


def validation_problem(found: Sequence[Any]) -> BrokageError:
    """From pydantic's list of errors. A malformed id in the path names nothing, hence 404."""
    if any(entry["loc"][:1] == ("path",) for entry in found):
        return NotFound()
    errors = [FieldError(_pointer(entry), _detail(entry)) for entry in found]
    if found and all(entry["type"] == "extra_forbidden" for entry in found):
        return UnknownField("A field of the request is not known here.", errors=errors)
    return ValidationFailed("A value of the request is not valid.", errors=errors)


def render(error: BrokageError, *, correlation_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body. `instance` is the request's id: the same that log lines carry."""
    problem: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": correlation_id,
        "code": error.code,
        "message": error.detail,
    }
    problem.update({name: value for name, value in error.fields.items() if name not in problem})
    if error.errors or error.status == 422:
        problem["errors"] = error.errors or [FieldError("", error.detail)]
    body = json.dumps(problem)
    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return error.status, headers, body


def problem_page(code: str) -> str:
    """The page behind a problem's `type`.

    Raises:
        NotFound: no such code.
    """
    error = known_errors().get(code)
    if error is None:
        raise NotFound()
    text = html.escape(" ".join((inspect.getdoc(error) or error.title).split()))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(error.title)}</title><h1>{html.escape(error.title)}</h1>"
        f"<p><code>{html.escape(code)}</code>, HTTP status {error.status}</p><p>{text}</p></html>"
    )


def _pointer(entry: dict[str, Any]) -> str:
    location = list(entry["loc"])
    origin = location.pop(0) if location else "body"
    parts = [] if origin == "body" else [str(origin)]
    # The name of an unknown field is input too: repeated only when it is harmless.
    parts += [str(part) for part in location if _PLAIN_NAME.match(str(part))]
    return "".join(f"/{part}" for part in parts)


def _detail(entry: dict[str, Any]) -> str:
    kind: str = entry["type"]
    context = entry.get("ctx") or {}
    if kind in _BOUNDS:
        name, template = _BOUNDS[kind]
        return template.format(context.get(name, "another value"))
    if kind.startswith("brokage_"):  # raised by shared.http.fields, with a fixed text
        return str(entry["msg"])
    return _DETAILS.get(kind, "This is not valid.")


def bad_request(detail: str) -> BrokageError:
    return BadRequest(detail)
