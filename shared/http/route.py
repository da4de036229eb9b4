"""The route class of every service: the checks that come before an endpoint, in the contract's order.

401 and 403 (role), 404 (path ownership), 413 and 415 (body), 400 (JSON, Idempotency-Key), 422 (parameters, fields).
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from shared import json
from shared.auth.caller import CallerContext
from shared.auth.permissions import API_SCOPES, PERMISSIONS, PUBLIC, ApiScope, Grants, Scope
from shared.auth.principals import PrincipalDirectory
from shared.errors import (
    BrokageError,
    FieldError,
    InvalidToken,
    NotFound,
    NotPermitted,
    UnknownField,
    UnsupportedMediaType,
    ValidationFailed,
)
from shared.http.caller import request_state
from shared.http.direct import Handler, direct_handler
from shared.http.state import BODY_IS_HERE, NO_BODY, RequestState
from shared.idempotency import IdempotencyKeyMissing, parse_key

CALLER_KEY = "brokage.caller"
BODY_SECONDS_MAX = 10.0
FORM = {"x-brokage-form": True}
"""`openapi_extra` of a route that takes an OAuth2 form and reads it itself."""
KEY_RULE = "x-brokage-idempotency"
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class RequestTimeout(BrokageError):
    """The body of the request did not arrive within ten seconds."""

    code = "request-timeout"
    status = 408
    title = "Request timed out"


def idempotency_key(*, unless: str | None = None) -> dict[str, Any]:
    """`openapi_extra` of a POST where money or orders change: it needs an `Idempotency-Key`, `unless` the body has
    that field."""
    return {KEY_RULE: {"unless": unless}}


class InsufficientScope(NotPermitted):
    """The API key was not made for this: create one with the scope that the call needs, or sign in as a person.
    `GET /api/api-keys/self` says what a key may do."""

    code = "insufficient-scope"
    title = "Outside the key's scopes"


def grants_of(operation_id: str) -> Grants:
    """The row of the table of permissions. `list_dead_letters__order_service` is the row `list_dead_letters`."""
    return PERMISSIONS[operation_id.partition("__")[0]]


class EdgeRoute(APIRoute):
    """A route with a row in the table of permissions; one without cannot be created."""

    grants: Grants
    api_scopes: frozenset[ApiScope]
    direct: ASGIApp | None = None
    """The route as an application, where it can be answered without the framework."""
    _known: frozenset[str]

    def __init__(self, path: str, endpoint: Callable[..., Any], **kwargs: Any) -> None:
        operation_id = kwargs.get("operation_id")
        if operation_id is None:
            kwargs["operation_id"] = operation_id = endpoint.__name__
        self.grants = grants_of(operation_id)
        self.api_scopes = API_SCOPES.get(operation_id, frozenset())
        super().__init__(path, endpoint, **kwargs)
        extra = self.openapi_extra or {}
        self._form = FORM.keys() <= extra.keys()
        self._key_rule: Mapping[str, str | None] | None = extra.get(KEY_RULE)
        handler = direct_handler(self.dependant)
        if handler is not None:
            self.direct = self._direct(handler)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        self._known = frozenset(_query_names(self.dependant))

        async def checked(request: Request) -> Response:
            document = await self._check(request)
            if document is not NO_BODY:
                request._json = document
            return await handle(request)

        return checked

    def _direct(self, handler: Handler) -> ASGIApp:
        async def answer(scope: ASGIScope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            response = await handler(request, await self._check(request))
            await response(scope, receive, send)

        return answer

    async def _check(self, request: Request) -> Any:
        """All that comes before the endpoint; the document of the body."""
        state = request_state(request)
        if self.grants is not PUBLIC:
            request.scope[CALLER_KEY] = await admit(state, self.grants, _directory(request, state), self.api_scopes)
        document = await self._read_body(request, state)
        _refuse_unknown_parameters(request, self._known)
        return document

    async def _read_body(self, request: Request, state: RequestState) -> Any:
        """Read the body once and parse it, strictly; `NO_BODY` where there is none or it is a form."""
        headers = request.headers
        if request.method not in _WITH_BODY and "content-length" not in headers and "transfer-encoding" not in headers:
            return NO_BODY
        state.body = await _body_of(request)
        if state.body:
            _check_media_type(headers.get("content-type"), headers.get("content-encoding"), form=self._form)
            if not self._form:
                state.document = json.loads(state.body)
                if self.body_field is None and state.document != {}:
                    raise UnknownField("This call takes no body.", errors=[FieldError("", "This call takes no body.")])
        if request.method == "POST":
            self._check_key(request, state)
        return state.document

    def _check_key(self, request: Request, state: RequestState) -> None:
        state.idempotency_key = parse_key(request.headers.getlist("idempotency-key"))
        if state.idempotency_key is not None or self._key_rule is None:
            return
        unless = self._key_rule["unless"]
        document = state.document
        if unless is None or not isinstance(document, dict) or document.get(unless) is None:
            raise IdempotencyKeyMissing()


def service_router(**kwargs: Any) -> APIRouter:
    """The router of a service's endpoints. The name of an endpoint function is its operation id, and so its row of
    permissions."""
    return APIRouter(route_class=EdgeRoute, **kwargs)


async def admit(
    state: RequestState,
    grants: Grants,
    directory: PrincipalDirectory,
    api_scopes: frozenset[ApiScope] = frozenset(),
) -> CallerContext:
    """The caller, if his role and his API key may use the operation and the path names nobody else's things.

    Raises:
        InvalidToken, NotYetKnown, NotPermitted, InsufficientScope, NotFound: in this order.
    """
    if state.principal is None:
        raise state.refusal or InvalidToken("Sign in first.")
    scope = grants.get(state.principal.role)
    if scope is None:
        raise NotPermitted("Your role may not use this call.")
    if state.token is not None and state.token.api_scopes is not None and not state.token.api_scopes & api_scopes:
        raise InsufficientScope("The API key may not use this call.")
    caller = CallerContext(state.principal, scope, directory, state.correlation_id)
    params = state.matched.path_params
    # `/api/brokers/{broker_id}/customers/{customer_id}` belongs to the broker, all others to the customer they name.
    owner = params.get("broker_id", params.get("customer_id"))
    if owner is not None:
        await _check_owner(caller, owner)
    return caller


async def _check_owner(caller: CallerContext, text: str) -> None:
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or (text.startswith("0")):
        raise NotFound()
    owner = int(text)
    if owner == caller.customer_id or caller.scope is Scope.ANY:
        return
    if caller.scope is Scope.OWN:
        raise NotFound()
    # Judged by what is found here: to ask the directory again would query the store when the entry has run out by now.
    customer = caller.directory.peek(owner) or await caller.directory.find(owner)
    if customer is None or caller.customer_id not in customer.brokers:
        raise NotFound()


def _directory(request: Request, state: RequestState) -> PrincipalDirectory:
    directory: PrincipalDirectory = request.app.state.services[state.matched.service].principals
    return directory


async def _body_of(request: Request) -> bytes:
    if BODY_IS_HERE in request.scope.get("extensions", ()):
        body = await _received(request.receive)
    else:
        body = await _received_in_time(request.receive)
    request._body = body  # where the framework looks for it
    return body


async def _received_in_time(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await _received(receive)
    except TimeoutError:
        raise RequestTimeout() from None


async def _received(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _check_media_type(content_type: str | None, encoding: str | None, *, form: bool) -> None:
    if encoding is not None and encoding.strip().lower() != "identity":
        raise UnsupportedMediaType("Bodies are not compressed.")
    essence, _, parameters = (content_type or "").partition(";")
    wanted = "application/x-www-form-urlencoded" if form else "application/json"
    if essence.strip().lower() != wanted:
        raise UnsupportedMediaType(f"Send Content-Type: {wanted}.")
    name, _, charset = parameters.strip().partition("=")
    if name and (name.strip().lower() != "charset" or charset.strip().strip('"').lower() not in ("utf-8", "utf8")):
        raise UnsupportedMediaType("Bodies are UTF-8.")


def _query_names(dependant: Any) -> list[str]:
    names = [parameter.alias for parameter in dependant.query_params]
    for child in dependant.dependencies:
        names += _query_names(child)
    return names


def _refuse_unknown_parameters(request: Request, known: frozenset[str]) -> None:
    if not request.scope["query_string"]:
        return
    seen: set[str] = set()
    unknown: list[FieldError] = []
    invalid: list[FieldError] = []
    for name, value in request.query_params.multi_items():
        if name not in known:
            unknown.append(FieldError("/query", "A query parameter is not known here."))
        elif name in seen:
            unknown.append(FieldError(f"/query/{name}", "This parameter is repeated."))
        elif any(character < " " or character in "\x7f\ufffd" for character in value):
            invalid.append(FieldError(f"/query/{name}", "This must not hold control characters."))
        seen.add(name)
    _raise(unknown, invalid)


def _raise(unknown: Sequence[FieldError], invalid: Sequence[FieldError]) -> None:
    if unknown:
        raise UnknownField("A query parameter is not known here or is repeated.", errors=unknown)
    if invalid:
        raise ValidationFailed("A query parameter is not valid.", errors=invalid)
