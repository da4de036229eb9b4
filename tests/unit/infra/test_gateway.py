"""The gateway between callers and small services, all on real sockets."""

import asyncio
import contextlib
import importlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from infra.gateway import Gateway, Upstream, owner
from infra.services import SERVICES
from shared.http.proxies import TrustedProxies


class TestOwner:
    @pytest.mark.parametrize("service", SERVICES)
    def test_every_path_of_a_service_goes_to_it(self, service: str) -> None:
        routes = importlib.import_module(f"{service}.app").api.router.routes
        for route in routes:
            assert isinstance(route, APIRoute)
            assert owner(re.sub(r"\{service\}", service, re.sub(r"\{(?!service)[^}]*\}", "7", route.path))) == service

    @pytest.mark.parametrize(
        ("path", "service"),
        [
            ("/api/orders", "order_service"),
            ("/api/orders/match", "order_service"),
            ("/api/orders/7/match", "processor"),
            ("/api/orders/7/matches", "order_service"),
            ("/api/dead-letters/notifier/7/requeue", "notifier"),
            ("/api/meadow", "customer_service"),
            ("/", "customer_service"),
        ],
    )
    def test_segments_are_whole(self, path: str, service: str) -> None:
        assert owner(path) == service


class Service:
    """Answers with what it was asked; some paths are special."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        special = {"/api/orders/slow": self._slow, "/api/orders/broken": self._broken, "/api/orders/hangs": self._hang}
        if path in special:
            await special[path](receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = {"service": self.name, "method": scope["method"], "path": path, "headers": headers, "length": len(body)}
        seen["query"] = scope["query_string"].decode()
        if path == "/health/ready" and scope["method"] == "GET":
            seen = {"status": "ready", "services": {self.name: "ready"}}
        if path == "/openapi.json":
            seen = {
                "info": {"title": "Brokage"},
                "paths": {f"/of/{self.name}": {}},
                "components": {"schemas": {"P": 1}},
            }
        await _start(send, 200)
        await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

    async def _slow(self, receive: Receive, send: Send) -> None:
        await _start(send, 200)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await receive()  # the rest of the caller's body, sent after he has seen the first part
        await send({"type": "http.response.body", "body": b"second"})

    async def _broken(self, receive: Receive, send: Send) -> None:
        await _start(send, 200)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise RuntimeError("in the middle")

    async def _hang(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


async def _start(send: Send, status: int) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-own", b"yes"), (b"connection", b"keep-alive")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_config=None, proxy_headers=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Scene:
    """A gateway's port, the services behind it, and their own ports."""

    def __init__(self, port: int, services: dict[str, Service], ports: dict[str, int] | None = None) -> None:
        self.port = port
        self.services = services
        self.ports = ports or {}

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, _dechunk(body) if "transfer-encoding" in headers else body

    async def get(self, path: str, method: str = "GET", more: str = "") -> tuple[int, dict[str, str], bytes]:
        return await self.ask(f"{method} {path} HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n{more}\r\n".encode())


def _dechunk(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        found, body = found + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return found


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    """Run `story` against a gateway to two services and a third that is away."""

    async def run() -> None:
        services = {name: Service(name) for name in ("customer_service", "order_service")}
        async with contextlib.AsyncExitStack() as stack:
            ports = {name: await stack.enter_async_context(serving(app)) for name, app in services.items()}
            away = socket.socket()
            stack.callback(away.close)
            away.bind(("127.0.0.1", 0))  # and does not listen
            upstreams = {name: Upstream(port) for name, port in ports.items()}
            gateway = Gateway(upstreams | {"processor": Upstream(away.getsockname()[1])})
            await story(Scene(await stack.enter_async_context(serving(gateway)), services, ports))

    asyncio.run(run())


class TestForward:
    def test_request_and_answer_pass_unchanged(self) -> None:
        async def story(scene: Scene) -> None:
            for _ in range(3):  # the second time over a connection that is kept
                status, headers, body = await scene.get("/api/orders/a%2Fb?x=1&y=%20", more="X-Mine: 7\r\n")
                seen = json.loads(body)
                assert (status, seen["service"], seen["query"]) == (200, "order_service", "x=1&y=%20")
                assert (seen["headers"]["host"], seen["headers"]["x-mine"]) == ("b.test", "7")
                assert headers["x-own"] == "yes"

        play(story)

    def test_only_the_gateway_says_who_the_caller_is(self) -> None:
        async def story(scene: Scene) -> None:
            _, _, body = await scene.get("/api/orders", more="X-Forwarded-For: 6.6.6.6\r\n")
            assert json.loads(body)["headers"]["x-forwarded-for"] == "127.0.0.1"

        play(story)

    def test_nor_do_callers_say_that_they_came_by_https(self) -> None:
        async def story(scene: Scene) -> None:
            _, _, body = await scene.get("/api/orders", more="X-Forwarded-Proto: https\r\n")
            assert "x-forwarded-proto" not in json.loads(body)["headers"]

        play(story)

    def test_a_proxy_of_ours_in_front_is_believed(self) -> None:
        async def story(scene: Scene) -> None:
            upstreams = {name: Upstream(port) for name, port in scene.ports.items()}
            async with serving(Gateway(upstreams, TrustedProxies("127.0.0.1"))) as port:
                more = "X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nX-Forwarded-Proto: https\r\n"
                _, _, body = await Scene(port, scene.services).get("/api/orders", more=more)
            seen = json.loads(body)["headers"]
            assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("7.7.7.7", "https")

        play(story)

    def test_bodies_of_both_framings_arrive_whole(self) -> None:
        async def story(scene: Scene) -> None:
            data = b"z" * 300_000
            head = b"POST /api/orders HTTP/1.1\r\nHost: b\r\nConnection: close\r\n"
            with_length = head + b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
            chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
            for request in (with_length, chunked):
                _, _, body = await scene.ask(request)
                assert json.loads(body)["length"] == len(data)

        play(story)

    def test_an_answer_is_passed_on_while_the_request_is_still_being_sent(self) -> None:
        async def story(scene: Scene) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
            writer.write(b"POST /api/orders/slow HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
            assert b"first" in await asyncio.wait_for(reader.readuntil(b"first"), 5)
            writer.write(b"end")
            assert b"second" in await asyncio.wait_for(reader.read(), 5)
            writer.close()

        play(story)

    def test_a_service_that_is_away_is_a_problem_with_retry_after(self) -> None:
        async def story(scene: Scene) -> None:
            status, headers, body = await scene.get("/api/trades")
            assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "1")
            assert json.loads(body)["code"] == "service-unavailable"

        play(story)

    def test_an_answer_cut_short_is_seen_as_such(self) -> None:
        async def story(scene: Scene) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
            writer.write(b"GET /api/orders/broken HTTP/1.1\r\nHost: b\r\n\r\n")
            raw = await asyncio.wait_for(reader.read(), 5)
            assert raw.endswith(b"first\r\n")  # the connection ends, the last chunk never came
            writer.close()

        play(story)

    def test_a_caller_who_leaves_is_noticed_by_the_service(self) -> None:
        async def story(scene: Scene) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", scene.port)
            writer.write(b"GET /api/orders/hangs HTTP/1.1\r\nHost: b\r\n\r\n")
            await asyncio.sleep(0.1)
            writer.close()
            await asyncio.wait_for(scene.services["order_service"].left.wait(), 5)

        play(story)


class TestBadRequests:
    """What the services would refuse, or h11 would not send, ends here: answered as a problem, passed on to nobody."""

    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (b"GET /api/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400, "bad-request"),
            (b"GET /api/orders HTTP/1.1\r\n", 400, "bad-request"),
            (b"POST /api/orders HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: gzip, chunked\r\n", 400, "bad-request"),
            (b"GET /api/orders?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: b\r\n", 414, "uri-too-long"),
            (b"GET /api/orders HTTP/1.1\r\nHost: b\r\nX-Long: " + b"x" * 17_000 + b"\r\n", 431, "headers-too-large"),
        ],
        ids=["two hosts", "no host", "encoding", "address", "headers"],
    )
    def test_end_as_a_problem(self, request_: bytes, status: int, code: str) -> None:
        async def story(scene: Scene) -> None:
            found, headers, body = await scene.ask(request_ + b"Connection: close\r\n\r\n")
            assert (found, headers["content-type"]) == (status, "application/problem+json")
            assert json.loads(body)["code"] == code
            assert headers["x-content-type-options"] == "nosniff"

        play(story)

    def test_so_does_what_h11_would_not_send(self) -> None:
        """The caller says that his Host is for the gateway alone; then there is none to pass on."""

        async def story(scene: Scene) -> None:
            status, _, body = await scene.ask(b"GET /api/orders HTTP/1.1\r\nHost: b\r\nConnection: close, host\r\n\r\n")
            assert (status, json.loads(body)["code"]) == (400, "bad-request")

        play(story)


class TestProblemPages:
    def test_are_a_services(self) -> None:
        async def story(scene: Scene) -> None:
            status, headers, body = await scene.get("/problems/not-found")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert json.loads(body)["path"] == "/problems/not-found"

        play(story)

    def test_are_a_problem_themselves_while_no_service_answers(self) -> None:
        async def story(scene: Scene) -> None:
            async with serving(Gateway({"customer_service": Upstream(1)})) as port:
                status, headers, body = await Scene(port, {}).get("/problems/not-found")
            assert (status, headers["content-type"]) == (503, "application/problem+json")
            assert json.loads(body)["code"] == "service-unavailable"

        play(story)


class TestTheWhole:
    def test_ready_only_when_all_are(self) -> None:
        async def story(scene: Scene) -> None:
            status, headers, body = await scene.get("/health/ready")
            services = {"customer_service": "ready", "order_service": "ready", "processor": "does not answer"}
            assert (status, headers["retry-after"], json.loads(body)["services"]) == (503, "1", services)

        play(story)

    def test_one_document_of_all(self) -> None:
        async def story(scene: Scene) -> None:
            status, _, body = await scene.get("/openapi.json")
            assert status == 200
            assert set(json.loads(body)["paths"]) == {"/of/customer_service", "/of/order_service"}

        play(story)

    def test_other_methods_are_a_services_to_refuse(self) -> None:
        async def story(scene: Scene) -> None:
            _, _, body = await scene.get("/health/ready", method="POST")
            assert json.loads(body)["service"] == "customer_service"

        play(story)
