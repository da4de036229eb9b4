"""The public port of a run with one API process per service: each path goes to the service that owns it.

It changes nothing but `X-Forwarded-*`; limits, identity and errors are the services' own. What concerns the whole, such as
`/health/ready` and `/openapi.json`, it puts together from their answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h11
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import Receive, Scope, Send

from shared.errors import BadRequest, BrokageError, ServiceUnavailable
from shared.http.answer_headers import secured
from shared.http.docs import CONTENT_SECURITY_POLICY, render_docs
from shared.http.edge import check_form
from shared.http.problems import render
from shared.http.proxies import TrustedProxies
from shared.ids import new_id

CUSTOMERS, ORDERS, ASSETS = "customer_service", "order_service", "asset_service"
# The first that matches; whole segments only.
OWNERS = tuple(
    (re.compile(rf"(?:{pattern})(?:/|\Z)"), service)
    for pattern, service in (
        (r"/api/(?:auth|me|customers|tiers|brokers)|/\.well-known", CUSTOMERS),
        (r"/api/orders/[^/]+/match|/api/(?:matching|trades|sagas)", "processor"),
        (r"/api/orders", ORDERS),
        (r"/api/(?:assets|reservations|transfers|instruments|ledger)", ASSETS),
        (r"/api/notifications", "notifier"),
        (r"/api/audit", "auditor"),
    )
)
DEAD_LETTERS = re.compile(r"/api/dead-letters/([a-z_]+)(?:/|\Z)")

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
READ_BYTES = 64 * 1024
# Longer than any service lets an answer wait.
ANSWER_SECONDS_MAX = 60.0
# Shorter than the services keep an idle connection, so that one taken from the pool is not just being closed.
IDLE_SECONDS_MAX = 10.0
IDLE_MAX = 32
_BROKEN = (OSError, TimeoutError, h11.ProtocolError)

Headers = list[tuple[bytes, bytes]]


def owner(path: str) -> str:
    """The service that answers for `path`; one nobody owns is customer_service's to refuse."""
    if match := DEAD_LETTERS.match(path):
        return match[1]
    return next((service for pattern, service in OWNERS if pattern.match(path)), CUSTOMERS)


class _Wire:
    """One connection to a service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.CLIENT)
        self.idle_since = 0.0

    async def write(self, event: Any) -> None:
        if data := self._protocol.send(event):
            self._writer.write(data)
            await self._writer.drain()

    async def read(self) -> Any:
        """The next event of the answer."""
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(READ_BYTES))
        return event

    def can_be_reused(self) -> bool:
        return self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE

    def next_request(self) -> None:
        self._protocol.start_next_cycle()
        self.idle_since = time.monotonic()

    def is_fresh(self) -> bool:
        return time.monotonic() - self.idle_since < IDLE_SECONDS_MAX and not self._reader.at_eof()

    def abandon(self) -> None:
        """The caller has left; the service learns of it unless its answer is complete already."""
        if not self.can_be_reused():
            self.close()

    def close(self) -> None:
        self._writer.close()


@dataclass(slots=True)
class Upstream:
    """A service, by where it listens; keeps a few idle connections."""

    port: int
    host: str = "127.0.0.1"
    _idle: list[_Wire] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[_Wire]:
        """A connection; it goes back to the idle ones if its answer was read to the end."""
        wire = self._take() or _Wire(*await asyncio.open_connection(self.host, self.port))
        keep = False
        try:
            yield wire
            keep = wire.can_be_reused() and len(self._idle) < IDLE_MAX
        finally:
            if keep:
                wire.next_request()
                self._idle.append(wire)
            else:
                wire.close()

    def _take(self) -> _Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.is_fresh():
                return wire
            wire.close()
        return None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET of ours.

        Raises:
            OSError, TimeoutError, h11.ProtocolError: no answer.
        """
        async with self.connect() as wire:
            await wire.write(h11.Request(method="GET", target=path, headers=[("host", f"{self.host}:{self.port}")]))
            await wire.write(h11.EndOfMessage())
            status, body = 0, bytearray()
            while not isinstance(event := await wire.read(), h11.EndOfMessage):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionResetError("closed within an answer")
            return status, bytes(body)


class Gateway:
    """The ASGI application."""

    def __init__(self, upstreams: Mapping[str, Upstream], proxies: TrustedProxies | None = None) -> None:
        """`proxies`: those in front of it, whose `X-Forwarded-*` it believes."""
        self._upstreams = dict(upstreams)
        self._proxies = proxies or TrustedProxies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        try:
            check_form(scope)
            request = _request(scope, self._proxies)
        except BrokageError as error:
            await _refuse(send, error)
            return
        except h11.ProtocolError:
            await _refuse(send, BadRequest("This is not a valid HTTP request."))
            return
        own = self._own(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        if own is not None:
            await _answer(send, *await own)
            return
        upstream = self._upstreams.get(owner(scope["path"])) or self._upstreams[CUSTOMERS]
        await _forward(upstream, request, receive, send)

    # -- what concerns the whole ---------------------------------------------------------------------------------------

    def _own(self, path: str) -> Any:
        if path.startswith("/problems/"):
            return self._problem(path)
        found = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }.get(path)
        return found() if found else None

    async def _ask_all(self, path: str) -> dict[str, bytes | None]:
        """Each service's answer; None where there is none, or no good one. Readiness is good and bad alike."""

        async def ask(upstream: Upstream) -> bytes | None:
            try:
                status, body = await upstream.get(path)
            except _BROKEN:
                return None
            return body if status in (200, 503) else None

        bodies = await asyncio.gather(*(ask(upstream) for upstream in self._upstreams.values()))
        return dict(zip(self._upstreams, bodies, strict=True))

    async def _live(self) -> tuple[int, Headers, bytes]:
        return _json(200, {"status": "live"})

    async def _ready(self) -> tuple[int, Headers, bytes]:
        services: dict[str, str] = {}
        for name, body in (await self._ask_all("/health/ready")).items():
            services[name] = _state(name, body)
        good = all(state == "ready" for state in services.values())
        content = {"status": "ready" if good else "not ready", "services": services}
        status, headers, body = _json(200 if good else 503, content)
        return status, headers if good else [*headers, (b"retry-after", b"1")], body

    async def _metrics(self) -> tuple[int, Headers, bytes]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(await self._ask_all("/metrics")))
        return 200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], generate_latest(registry)

    async def _document(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for body in (await self._ask_all("/openapi.json")).values():
            if body is not None:
                _merge(merged, json.loads(body))
        return merged

    async def _openapi(self) -> tuple[int, Headers, bytes]:
        return _json(200, await self._document())

    async def _docs(self) -> tuple[int, Headers, bytes]:
        page = render_docs(await self._document()).encode()
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        return 200, [*headers, (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())], page

    async def _problem(self, path: str) -> tuple[int, Headers, bytes]:
        """A page of whichever service knows the problem."""
        status, _, body = render(ServiceUnavailable("No service answers."), correlation_id=new_id())
        for upstream in self._upstreams.values():
            with contextlib.suppress(*_BROKEN):
                status, body = await upstream.get(path)
                if status == 200:
                    return 200, [(b"content-type", b"text/html; charset=utf-8")], body
        return status, [(b"content-type", b"application/problem+json")], body


class _Merged(Collector):
    """The metrics of several processes, told apart by the label `service`."""

    def __init__(self, texts: Mapping[str, bytes | None]) -> None:
        self._families: dict[str, Metric] = {}
        for service, text in texts.items():
            for family in text_string_to_metric_families((text or b"").decode()):
                merged = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "service": service}))

    def collect(self) -> list[Metric]:
        return list(self._families.values())


def _state(name: str, body: bytes | None) -> str:
    try:
        return str(json.loads(body or b"")["services"][name])
    except (ValueError, KeyError, TypeError):
        return "does not answer"


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target.setdefault(key, value)


def _json(status: int, content: Any) -> tuple[int, Headers, bytes]:
    return status, [(b"content-type", b"application/json")], json.dumps(content).encode()


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    headers = secured([*headers, length])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, error: BrokageError) -> None:
    status, headers, body = render(error, correlation_id=new_id())
    await _answer(send, status, [(name, value) for name, value in headers if name != b"content-length"], body)


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _forward(upstream: Upstream, request: h11.Request, receive: Receive, send: Send) -> None:
    """Pass the request on and the answer back, both as they come. A service that is away is 503 if nothing was answered yet."""
    started = asyncio.Event()
    try:
        async with upstream.connect() as wire:
            await wire.write(request)
            sending = asyncio.create_task(_send_body(wire, receive))
            try:
                await _return_answer(wire, send, started)
            finally:
                await _ended(sending)
    except _BROKEN:
        if started.is_set():
            raise  # uvicorn cuts the connection, so that the caller sees that something is missing
        await _refuse(send, ServiceUnavailable("The service does not answer."))


_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})


def _request(scope: Scope, proxies: TrustedProxies) -> h11.Request:
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    # What the caller says of himself is not passed on: the services believe us.
    headers = [header for header in _end_to_end(scope["headers"]) if header[0] not in _FORWARDED]
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers.append((b"transfer-encoding", b"chunked"))
    if scope.get("client"):
        peer = scope["client"][0]
        headers.append((b"x-forwarded-for", proxies.caller(peer, scope["headers"]).encode("latin-1")))
        if proxies.over_tls(peer, scope["headers"]):
            headers.append((b"x-forwarded-proto", b"https"))
    return h11.Request(method=scope["method"], target=target, headers=headers)


def _end_to_end(headers: Headers) -> Headers:
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP | named]


async def _send_body(wire: _Wire, receive: Receive) -> None:
    """The body, then an eye on the caller: should he leave, the service is told by the closed connection."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            wire.abandon()
            return
        if message.get("body"):
            await wire.write(h11.Data(data=message["body"]))
        more = message.get("more_body", False)
    await wire.write(h11.EndOfMessage())
    if (await receive())["type"] == "http.disconnect":
        wire.abandon()


async def _return_answer(wire: _Wire, send: Send, started: asyncio.Event) -> None:
    while not isinstance(event := await wire.read(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            started.set()
            # uvicorn writes the date itself.
            headers = [(name, value) for name, value in _end_to_end(list(event.headers)) if name != b"date"]
            await send({"type": "http.response.start", "status": event.status_code, "headers": headers})
        elif isinstance(event, h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed within an answer")
    await send({"type": "http.response.body", "body": b""})


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, *_BROKEN):
        await task
