"""The outermost layer of every API process: what is true of all requests, whichever service answers them.

Pure ASGI. It judges the request's form (address, headers, one Host), finds the route, the caller and his bucket,
runs the application with a bounded body, and turns whatever went wrong into problem+json.
"""

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import structlog
from fastapi.concurrency import run_in_threadpool
from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.auth.principals import Principal, PrincipalDirectory
from shared.auth.tokens import AccessToken, TokenVerifier
from shared.clock import utc_now
from shared.db.engine import DatabaseUnavailable
from shared.errors import (
    BadRequest,
    BrokageError,
    HeadersTooLarge,
    InvalidToken,
    NotYetKnown,
    PayloadTooLarge,
    RateLimited,
    ServiceUnavailable,
    UriTooLong,
)
from shared.http.answer_headers import Headers, secured
from shared.http.cors import CorsPolicy
from shared.http.hosts import AllowedHosts
from shared.http.limits import ANONYMOUS_PER_MINUTE, RateLimiter, Verdict, address_key, allowance_of
from shared.http.matching import RouteTable
from shared.http.problems import render, translate
from shared.http.proxies import TrustedProxies
from shared.http.state import SCOPE_KEY, Matched, RequestState
from shared.http.telemetry import RequestRecord, TelemetryBuffer, kept_headers
from shared.ids import new_id
from shared.logging import logger

BODY_BYTES_MAX = 64 * 1024
HEADER_BYTES_MAX = 16 * 1024
URI_BYTES_MAX = 8 * 1024
DRAINED_BYTES_MAX = 16 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the caller gets to read the answer."""

_CORRELATION = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_READS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
ANONYMOUS_TIER = "ANONYMOUS"
CALLER_LEFT = 499
"""What metrics and telemetry say instead of a status where the caller left before he could be answered."""

requests_total = Counter("brokage_http_requests_total", "Requests answered", ["method", "route", "status"])
request_seconds = Histogram("brokage_http_request_seconds", "Time to the answer", ["method", "route"])
log = logger("edge")


class Service(Protocol):
    """What the edge needs of a service that is mounted here."""

    @property
    def principals(self) -> PrincipalDirectory: ...


class Edge:
    """Wraps the application. `services` is filled when the process has started.

    Args:
        exempt: paths that are not counted against any limit (health, metrics).
        proxies: whose `X-Forwarded-*` is believed.
        hosts: under which names we may be called.
        cors: pages of which other origins may call.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: RouteTable,
        services: Mapping[str, Service],
        verifier: TokenVerifier,
        limiter: Callable[[], RateLimiter],
        telemetry: Callable[[], TelemetryBuffer],
        exempt: frozenset[str],
        proxies: TrustedProxies,
        hosts: AllowedHosts,
        cors: CorsPolicy,
    ) -> None:
        self._app = app
        self._routes = routes
        self._services = services
        self._verifier = verifier
        self._limiter = limiter
        self._telemetry = telemetry
        self._exempt = exempt
        self._proxies = proxies
        self._hosts = hosts
        self._cors = cors
        self._observers: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        state = self._begin(scope)
        scope[SCOPE_KEY] = state
        # The server runs each request in a context of its own, so this ends with it.
        structlog.contextvars.bind_contextvars(correlation_id=state.correlation_id)
        peer = _peer(scope)
        https = scope["scheme"] == "https" or self._proxies.over_tls(peer, scope["headers"])
        answer = _Answer(send, state, self._cors.headers(scope["headers"]), https=https)
        try:
            await self._serve(scope, _Body(receive, scope["headers"]), answer, state)
        except ClientDisconnect:
            # He left before all of his body had come: nobody is there to be answered, and nothing is wrong with us.
            answer.status = answer.status or CALLER_LEFT
        except Exception as error:  # noqa: BLE001 - the last resort of every request: a bug becomes 500, never a torn connection
            await self._refuse(error, answer, state)
        finally:
            self._observe(scope, state, answer.status, time.perf_counter() - started)

    def _begin(self, scope: Scope) -> RequestState:
        headers = scope["headers"]
        matched = self._routes.match(scope["method"], scope["path"], scope.get("raw_path") or b"")
        correlation = _single(headers, b"x-correlation-id")
        valid = correlation is not None and _CORRELATION.fullmatch(correlation)
        return RequestState(
            correlation_id=correlation.decode() if valid and correlation else new_id(),
            traceparent=_next_span(_single(headers, b"traceparent")),
            address=address_key(self._proxies.caller(_peer(scope), headers)),
            matched=matched,
        )

    async def _serve(self, scope: Scope, body: "_Body", answer: "_Answer", state: RequestState) -> None:
        check_form(scope)
        self._check_host(scope, state.matched)
        permitted = self._cors.preflight(scope["method"], scope["headers"], state.matched.allowed)
        if permitted is not None:
            await answer({"type": "http.response.start", "status": 204, "headers": permitted})
            await answer({"type": "http.response.body", "body": b""})
            return
        if state.matched.template not in self._exempt:
            token = await self._identify(scope, state)
            await self._take_token(scope, state, token)
        await self._app(scope, body, answer)

    async def _identify(self, scope: Scope, state: RequestState) -> AccessToken | None:
        """Find out who calls. A bad token is no error here: public routes do not ask, all others raise
        `state.refusal`."""
        try:
            token = await self._token(scope["headers"])
            if token is None:
                state.refusal = InvalidToken("Sign in first.")
                return None
            state.principal = await self._principal(token, state.matched)
            state.token = token
        except (InvalidToken, NotYetKnown, ServiceUnavailable) as refusal:
            state.refusal = refusal
            return None
        return token

    async def _token(self, headers: Sequence[tuple[bytes, bytes]]) -> AccessToken | None:
        values = [value for name, value in headers if name == b"authorization"]
        if not values:
            return None
        if len(values) > 1:
            raise BadRequest("There is more than one Authorization header.")
        scheme, _, credentials = values[0].decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise InvalidToken("The access token is not valid.", presented=True)
        text = credentials.strip()
        # In a thread when it is new: the keys may have to be read, or fetched from the issuer.
        return self._verifier.recall(text) or await run_in_threadpool(self._verifier.verify, text)

    async def _principal(self, token: AccessToken, matched: Matched) -> Principal:
        service = self._services.get(matched.service or "") or next(iter(self._services.values()), None)
        if service is None:
            raise ServiceUnavailable()
        directory = service.principals
        named = token.customer_id if token.customer_id is not None else token.username or ""
        principal = directory.peek(named)
        if principal is None:
            try:
                principal = await directory.find(named)
                if principal is None and matched.route is not None:
                    principal = await run_in_threadpool(directory.wait_for, named)
            except DatabaseUnavailable:
                raise ServiceUnavailable() from None
        if principal is None:
            raise NotYetKnown()
        too_old = token.issued_at < principal.tokens_valid_from.timestamp() - 0.001
        if not principal.active or too_old or token.is_of_any(principal.ended_sessions):
            raise InvalidToken("The access token is no longer valid.", presented=True)
        return principal

    async def _take_token(self, scope: Scope, state: RequestState, token: AccessToken | None) -> None:
        allowance = allowance_of(state.principal, state.address)
        write = scope["method"] not in _READS
        session, key = (token.session_id, token.api_key_id) if token else (None, None)
        verdict = await self._limiter().judge(allowance, session_id=session, api_key_id=key, write=write)
        if verdict.session_revoked and token:
            state.principal = None
            state.refusal = InvalidToken("The access token is no longer valid.", presented=True)
        state.rate_headers = _rate_headers(verdict, state.principal)
        if not verdict.allowed:
            raise RateLimited(headers={"Retry-After": str(max(1, round(verdict.retry_seconds + 0.5)))})

    async def _refuse(self, error: Exception, answer: "_Answer", state: RequestState) -> None:
        refusal = translate(error)
        if refusal is None:
            log.error("request_failed", route=state.matched.template, exc_info=error)
            refusal = BrokageError()
        elif refusal.status >= 500:
            log.warning(
                "request_unavailable",
                route=state.matched.template,
                cause=type(error.__cause__ or error).__name__,
            )
        if answer.status:
            return  # the answer has begun; the server closes the connection, which the caller sees as cut
        status, headers, body = render(refusal, correlation_id=state.correlation_id)
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": body})

    def _observe(self, scope: Scope, state: RequestState, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        template = state.matched.template
        observers = self._observers.get((method, template, status))
        if observers is None:
            observers = self._observers[method, template, status] = (
                request_seconds.labels(method, template),
                requests_total.labels(method, template, str(status or 500)),
            )
        observers[0].observe(seconds)
        observers[1].inc()
        if template in self._exempt:
            return
        self._telemetry().add(
            RequestRecord(
                timestamp=utc_now(),
                endpoint=template,
                method=method,
                response_time=round(seconds * 1000),
                status_code=status or 500,
                user_id=state.principal.customer_id if state.principal else None,
                correlation_id=state.correlation_id,
                headers=kept_headers(scope["headers"]),
            )
        )

    def _check_host(self, scope: Scope, matched: Matched) -> None:
        """Paths of the process itself answer under any name: probes and the gateway know only an address."""
        host = next(value for name, value in scope["headers"] if name == b"host")
        own = matched.route is not None and matched.service is None
        if not self._hosts.well_formed(host) or not (own or self._hosts.allows(host)):
            raise BadRequest("The Host header does not name this server.", headers=_CLOSE)


def _peer(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "unknown"


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Answer:
    """`send`, which adds the headers every answer has and remembers the status."""

    def __init__(self, send: Send, state: RequestState, cors: Headers, *, https: bool) -> None:
        self._send = send
        self._state = state
        self._cors = cors
        self._https = https
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = secured(message.get("headers", ()), https=self._https)
            headers += self._cors
            headers.append((b"x-correlation-id", self._state.correlation_id.encode()))
            headers.append((b"traceparent", self._state.traceparent.encode()))
            headers += self._state.rate_headers or unjudged_headers()
            message = {**message, "headers": headers}
        await self._send(message)


class _Body:
    """`receive`, which stops at 64 KiB: the rest is drained, in bounds, and the request refused."""

    def __init__(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        declared = _single(headers, b"content-length") or b"0"
        self._declared = int(declared) if declared.isdigit() else 0
        self._received = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if max(self._received, self._declared) > BODY_BYTES_MAX:
                await self._drain(message)
                raise PayloadTooLarge()
        return message

    async def _drain(self, message: Message) -> None:
        while message.get("more_body") and self._received <= DRAINED_BYTES_MAX:
            message = await self._receive()
            if message["type"] != "http.request":
                return
            self._received += len(message.get("body", b""))


def check_form(scope: Scope) -> None:
    """What every server and proxy would read alike; also for the gateway.

    Raises:
        UriTooLong, HeadersTooLarge, BadRequest: otherwise.
    """
    headers = scope["headers"]
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > URI_BYTES_MAX:
        raise UriTooLong()
    if sum(len(name) + len(value) + 4 for name, value in headers) > HEADER_BYTES_MAX:
        raise HeadersTooLarge()
    if sum(1 for name, _ in headers if name == b"host") != 1:
        raise BadRequest("There must be exactly one Host header.", headers=_CLOSE)
    _check_framing(headers)


_CLOSE = {"Connection": "close"}
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def _check_framing(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Servers and proxies differ in what they let through here; where they could disagree on a body's end, nothing
    passes."""
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) + len(encodings) > 1 or any(not value.isdigit() for value in lengths):
        raise BadRequest("The length of the body is not clear.", headers=_CLOSE)
    if any(value.lower() != b"chunked" for value in encodings):
        raise BadRequest("The transfer encoding is not known here.", headers=_CLOSE)
    if any(_CONTROL.search(value) for _, value in headers):
        raise BadRequest("A header holds a control character.", headers=_CLOSE)


def _single(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The value of a header that occurs once; None otherwise."""
    values: list[bytes] = [value for name, value in headers if name == wanted]
    return values[0] if len(values) == 1 else None


def _next_span(parent: bytes | None) -> str:
    """The W3C trace this request belongs to, with a span of its own."""
    random = secrets.token_hex(24)
    trace, span = random[:32], random[32:]
    if parent is not None and _TRACEPARENT.fullmatch(parent):
        text = parent.decode()
        return f"{text[:36]}{span}{text[52:]}"
    return f"00-{trace}-{span}-01"


def _rate_headers(verdict: Verdict, principal: Principal | None) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit", b"%d" % verdict.limit),
        (b"x-ratelimit-remaining", b"%d" % max(0, verdict.remaining)),
        (b"x-ratelimit-reset", b"%d" % int(time.time() + verdict.reset_seconds + 0.999)),
        (b"x-customer-tier", principal.tier.encode() if principal else ANONYMOUS_TIER.encode()),
    ]


_UNJUDGED = [
    # Refused for its form, or exempt: nothing was counted, but the headers are there for those who rely on them.
    (b"x-ratelimit-limit", b"%d" % ANONYMOUS_PER_MINUTE),
    (b"x-ratelimit-remaining", b"%d" % ANONYMOUS_PER_MINUTE),
    (b"x-customer-tier", ANONYMOUS_TIER.encode()),
]


def unjudged_headers() -> list[tuple[bytes, bytes]]:
    return [*_UNJUDGED, (b"x-ratelimit-reset", b"%d" % int(time.time()))]


def reason_of(status: int) -> str:
    return HTTPStatus(status).phrase
