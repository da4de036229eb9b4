"""`Idempotency-Key`: one effect and one answer for fifty at once, whatever Valkey does meanwhile."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from infra.services import load
from shared.app import create_app
from shared.auth import tokens
from shared.ids import new_id
from tests.integration.world import ORDER, World

AT_ONCE = 50


class Proxy:
    """A TCP proxy before Valkey: `delay` seconds on each answer, or `down`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.delay = 0.0
        self.down = False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Down, also for those who are connected."""
        self.down = True
        for connection in list(self._open):
            connection.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers:
                    time.sleep(self.delay)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            sink.close()


class Behind:
    """order_service and asset_service on the world's databases, with the proxy between them and Valkey."""

    def __init__(self, world: World, client: TestClient, proxy: Proxy, valkey: Any) -> None:
        self.world, self.client, self.proxy, self.valkey = world, client, proxy, valkey

    def post(self, path: str, body: dict[str, Any], key: str, caller: str = "admin") -> Any:
        token = tokens.issue(self.world.key, customer_id=self.world.people[caller], session_id="s")
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        return self.client.post(path, json=body, headers=headers)


@pytest.fixture(scope="module")
def _behind(world: World) -> Iterator[Behind]:
    url = world.environment["BROKAGE_REDIS_URL"]
    known = redis.Redis.from_url(url).connection_pool.connection_kwargs
    proxy = Proxy(known.get("host", "127.0.0.1"), known["port"])
    address = f"127.0.0.1:{proxy.port}"
    password = f":{known['password']}@" if known.get("password") else ""
    with ExitStack() as stack:
        stack.callback(proxy.close)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in world.environment.items():
                patch.setenv(name, value)
            patch.setenv("BROKAGE_REDIS_URL", f"redis://{password}{address}/0")
            app = create_app([load(service, "app").api for service in ("order_service", "asset_service")])
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        yield Behind(world, client, proxy, redis.Redis.from_url(url))


@pytest.fixture
def behind(_behind: Behind) -> Iterator[Behind]:
    yield _behind
    _behind.proxy.down, _behind.proxy.delay = False, 0.0
    time.sleep(1.1)  # for so long it is believed to be down


def deposit(world: World) -> tuple[str, dict[str, Any]]:
    terms = {"customer_id": world.people["stranger"], "asset_name": "TRY", "amount": "1"}
    return "/api/assets/deposit", {**terms, "reference": new_id()}


def order(world: World) -> tuple[str, dict[str, Any]]:
    return "/api/orders", {**ORDER, "customer_id": world.people["stranger"], "size": "0.000001"}


def flushing(behind: Behind, stop: threading.Event) -> None:
    while not stop.is_set():
        behind.valkey.flushdb()
        time.sleep(0.002)


@pytest.mark.parametrize("weather", ["good", "flushed", "down", "slow", "dying"])
@pytest.mark.parametrize("kind", [deposit, order], ids=["deposit", "order"])
def test_fifty_at_once_have_one_effect_and_one_answer(
    behind: Behind, weather: str, kind: Callable[[World], tuple[str, dict[str, Any]]]
) -> None:
    path, body = kind(behind.world)
    key, stop = new_id(), threading.Event()
    if weather == "down":
        behind.proxy.cut()
    behind.proxy.delay = 0.15 if weather == "slow" else 0.0
    disturbance = threading.Thread(target=flushing, args=(behind, stop))
    if weather == "flushed":
        disturbance.start()
    if weather == "dying":
        threading.Timer(0.02, behind.proxy.cut).start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: behind.post(path, body, key), range(AT_ONCE)))
    stop.set()
    if weather == "flushed":
        disturbance.join()
    # A few may have been told that the first is still running; they come again, as they are asked to.
    while running := [answer for answer in answers if answer.status_code == 409]:
        assert {answer.json()["code"] for answer in running} == {"idempotency-key-in-use"}
        time.sleep(0.05)
        answers = [answer for answer in answers if answer.status_code != 409]
        answers += [behind.post(path, body, key) for _ in running]
    assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers][:3]
    assert len({answer.json()["id"] for answer in answers}) == 1
    first = [answer for answer in answers if "Idempotent-Replayed" not in answer.headers]
    assert len(first) == 1
    behind.valkey.flushdb()
    again = behind.post(path, body, key)
    assert (again.status_code, again.json()["id"]) == (201, answers[0].json()["id"])


@pytest.mark.parametrize("weather", ["good", "down"])
def test_a_key_is_of_one_caller_one_route_and_one_body(behind: Behind, weather: str) -> None:
    if weather == "down":
        behind.proxy.cut()
    key = new_id()
    path, body = deposit(behind.world)
    first = behind.post(path, body, key)
    assert first.status_code == 201
    other = behind.post(path, {**body, "amount": "2"}, key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    order_path, order_body = order(behind.world)
    assert behind.post(order_path, order_body, key).status_code == 201  # another route
    assigned = {**body, "customer_id": behind.world.people["assigned"]}
    assert behind.post(path, assigned, key, caller="broker").status_code == 201  # another caller


@pytest.mark.parametrize("key", ["", "k" * 129, "k" * 256, "a b", "a\tb", "ä"])
def test_a_key_that_is_none(behind: Behind, key: str) -> None:
    path, body = deposit(behind.world)
    token = tokens.issue(behind.world.key, customer_id=behind.world.people["admin"], session_id="s")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key.encode("latin-1")}
    answer = behind.client.post(path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-invalid")


def test_a_refusal_is_not_kept(behind: Behind) -> None:
    path, body = deposit(behind.world)
    key = new_id()
    assert behind.post(path, {**body, "asset_name": "NOSUCH"}, key).status_code == 422
    assert behind.post(path, body, key).status_code == 201
