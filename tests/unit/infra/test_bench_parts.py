"""The parts of the measurement that need no system."""

import asyncio
import contextlib
import json
import random
from uuid import UUID

import pytest

from infra.bench import load
from infra.bench.client import BadAnswer, Connection, request
from infra.bench.counters import Counts, per_order
from infra.bench.fill import copy_of, may_be_copied
from infra.bench.run import ratios
from infra.bench.stages import quantiles
from infra.bench.statements import per_batch


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...


def answered(*chunks: bytes) -> tuple[int, bytes]:
    """What a connection makes of an answer that arrives in these pieces."""

    async def talk() -> tuple[int, bytes]:
        connection = Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        waiting = asyncio.create_task(connection.send(b"GET / HTTP/1.1\r\n\r\n"))
        await asyncio.sleep(0)
        for chunk in chunks:
            connection.data_received(chunk)
        answer = await waiting
        return answer.status, answer.body

    return asyncio.run(talk())


class TestClient:
    @pytest.mark.parametrize("cut", range(1, 52))
    def test_an_answer_in_pieces(self, cut: int) -> None:
        whole = b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n" + b'{"a": "b"}\n'
        assert answered(whole[:cut], whole[cut:]) == (201, b'{"a": "b"}\n')

    def test_an_answer_without_a_body(self) -> None:
        assert answered(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n") == (204, b"")

    def test_a_connection_that_ends(self) -> None:
        async def talk() -> None:
            connection = Connection()
            connection.connection_made(Transport())  # type: ignore[arg-type]
            waiting = asyncio.create_task(connection.send(b"x"))
            await asyncio.sleep(0)
            connection.connection_lost(None)
            await waiting

        with pytest.raises(BadAnswer):
            asyncio.run(talk())

    def test_a_request(self) -> None:
        head, body = request("POST", "/api/orders", token="t", body=json.dumps({"a": 1}).encode()).split(b"\r\n\r\n")
        assert head.split(b"\r\n") == [
            b"POST /api/orders HTTP/1.1",
            b"Host: localhost",
            b"Authorization: Bearer t",
            b"Content-Type: application/json",
            b"Content-Length: 8",
        ]
        assert json.loads(body) == {"a": 1}


class TestLoad:
    def test_a_connection_that_rested_for_long_is_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server hangs up on those; a minute of posts at a steady rate ended by that."""
        monkeypatch.setattr(load, "REST_SECONDS_MAX", 0.05)
        served = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = len(served)
            served.append(0)
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
                while True:
                    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 0.1)
                    served[number] += 1
                    body = b'{"status": "ORDER_CONFIRMED"}'
                    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        async def post() -> load.Answered:
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                return await load.post_at(port, [request("POST", "/api/orders")] * 3, 4.0)

        assert len(asyncio.run(post()).seconds) == 3
        assert served == [1, 1, 1]

    def test_no_more_call_at_once_than_the_server_bears(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A load beyond what is settled had opened thousands of connections, until the server hung up on new ones."""
        monkeypatch.setattr(load, "CALLERS_MAX", 3)
        open_now, most = 0, 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await asyncio.sleep(0.05)
                    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")
            open_now -= 1
            writer.close()

        async def post() -> load.Answered:
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                return await load.post_at(port, [request("POST", "/api/orders")] * 20, 1_000.0)

        answered = asyncio.run(post())
        assert (len(answered.seconds), answered.unconfirmed, most) == (20, 20, 3)
        assert answered.seconds[-1] > 0.3, "who waits for his turn waits already"


class TestFill:
    def test_no_copy_is_an_original(self) -> None:
        """A million orders had always failed: some id of thousands has the digits of one of fifty copies."""
        # Not of our own making: those of one millisecond have nearly the same digits there.
        dice = random.Random(7)
        originals = {id for _ in range(2_000) if may_be_copied(id := str(UUID(int=dice.getrandbits(128))))}
        copies = {copy_of(id, copy) for id in originals for copy in range(1, 200)}
        assert len(copies) == len(originals) * 199 > 100_000
        assert not copies & originals


LOG = """\
7|brokage asset_service worker|LOG:  statement: BEGIN
7|brokage asset_service worker|LOG:  execute _pg3_1: WITH claimed AS (
\tINSERT INTO processed_events
\tSELECT 1)
8|brokage order_service worker|LOG:  statement: BEGIN
7|brokage asset_service worker|LOG:  execute _pg3_2: SELECT pg_advisory_xact_lock($1)
8|brokage order_service worker|LOG:  execute _pg3_9: UPDATE orders SET x = 1
7|brokage asset_service worker|LOG:  execute <unnamed>: INSERT INTO ledger_entries VALUES (1)
8|brokage order_service worker|LOG:  statement: ROLLBACK
7|brokage asset_service worker|DETAIL:  Parameters: $1 = '1'
7|brokage asset_service worker|LOG:  statement: NOTIFY outbox
7|brokage asset_service worker|LOG:  statement: COMMIT
7|brokage asset_service worker|LOG:  execute _pg3_3: SELECT 1
9|brokage order_service api|LOG:  statement: BEGIN
9|brokage order_service api|LOG:  execute a: SELECT 1
9|brokage order_service api|LOG:  statement: COMMIT
7|brokage asset_service worker|LOG:  statement: BEGIN
7|brokage asset_service worker|LOG:  execute _pg3_1: SELECT 1
7|brokage asset_service worker|LOG:  statement: COMMIT
""".splitlines()


def test_statements_of_a_batch_are_those_of_a_committed_transaction_of_a_worker() -> None:
    assert per_batch(LOG) == {"asset_service": 1, "asset_service settlement": 2}


def test_quantiles_are_milliseconds() -> None:
    assert quantiles([number / 1000 for number in range(1, 101)]) == {"p50_ms": 51, "p95_ms": 96, "p99_ms": 100}
    assert quantiles([0.5]) == {"p50_ms": 500, "p95_ms": 500, "p99_ms": 500}


def test_ratios_are_medians_over_the_rounds_own_yardsticks() -> None:
    rounds = [
        {
            "transfer": 100 * speed,
            "insert": 200 * speed,
            "settled": settled * speed,
            "told": 10 * speed,
            "accepted": 50 * speed,
            "full_stack": 20 * speed,
            "settled_sync_off": 100 * speed,
        }
        for speed, settled in ((1, 40), (0.5, 50), (2, 90))
    ]
    assert ratios(rounds) == {
        "settled_ratio": 0.5,
        "full_trail_ratio": 0.1,
        "accept_ratio": 0.25,
        "full_stack_ratio": 0.2,
        "sync_ratio": 0.5,
    }


def test_counters_are_differences_over_orders() -> None:
    before = Counts({"a": 10, "b": 0}, 0, 1000, 1, 5, 100, 50)
    after = Counts({"a": 30, "b": 5}, 1, 9000, 3, 7, 300, 200)
    assert per_order(before, after, 100) == {
        "orders": 100,
        "commits_per_order": 0.25,
        "commits_per_order_by_service": {"a": 0.2, "b": 0.05},
        "rollbacks": 1,
        "wal_bytes_per_order": 80,
        "wal_page_images": 2,
        "messages_per_order": 0.02,
        "asset_hot_share": 0.75,
    }
