"""Request telemetry from the stream into its collection."""

import secrets
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis

from auditor.documents import TELEMETRY
from auditor.telemetry import TelemetryLoop
from shared.http.telemetry import STREAM, RequestRecord
from shared.messaging.seal import TELEMETRY_CHANNEL, Seals
from shared.mongo import MongoDatabase
from shared.testing.seals import SEALS, STRANGER
from shared.testing.servers import LocalValkey


@pytest.fixture
def client(valkey: LocalValkey) -> Any:
    opened = redis.Redis.from_url(valkey.url)
    opened.flushall()
    yield opened
    opened.close()


@pytest.fixture
def refused() -> list[int]:
    """As long as entries were refused."""
    return []


@pytest.fixture
def loop(database: MongoDatabase, valkey: LocalValkey, refused: list[int]) -> TelemetryLoop:
    return TelemetryLoop(database, valkey.url, SEALS, lambda: refused.append(1), poll_seconds=0.01)


def add(client: Any, batch: bytes, seals: Seals = SEALS) -> None:
    client.xadd(STREAM, {"batch": batch, "seal": seals.seal(TELEMETRY_CHANNEL, batch)})


def put(client: Any, count: int) -> list[str]:
    records = [
        RequestRecord(
            timestamp=datetime.now(UTC),
            endpoint="/api/orders",
            method="GET",
            response_time=3,
            status_code=200,
            user_id=7,
            correlation_id=secrets.token_hex(4),
            headers={"accept": "*/*"},
        )
        for _ in range(count)
    ]
    add(client, msgspec.json.encode(records))
    return [record.correlation_id for record in records]


def stored(database: MongoDatabase) -> list[str]:
    return [row["correlation_id"] for row in database[TELEMETRY].find().sort("_id", 1)]


class TestMove:
    def test_records_are_stored_in_order_and_leave_the_stream(
        self, client: Any, loop: TelemetryLoop, database: MongoDatabase
    ) -> None:
        expected = put(client, 12) + put(client, 3)
        assert loop.move() == 2
        assert stored(database) == expected
        assert client.xlen(STREAM) == 0
        assert loop.move() == 0
        expected += put(client, 1)
        loop.move()
        assert stored(database) == expected
        [first] = database[TELEMETRY].find().sort("_id", 1).limit(1)
        assert (first["endpoint"], first["status_code"], first["user_id"]) == ("/api/orders", 200, 7)

    def test_what_is_read_twice_is_stored_once(self, client: Any, loop: TelemetryLoop, database: MongoDatabase) -> None:
        expected = put(client, 3)
        loop.move()
        database["telemetry_positions"].delete_many({})
        add(client, b"[]")
        loop.move()
        assert stored(database) == expected

    def test_an_entry_that_cannot_be_read_is_skipped(
        self, client: Any, loop: TelemetryLoop, database: MongoDatabase
    ) -> None:
        add(client, b"nonsense")
        expected = put(client, 1)
        loop.move()
        assert stored(database) == expected

    def test_an_entry_that_none_of_ours_has_sealed_is_refused(
        self, client: Any, loop: TelemetryLoop, database: MongoDatabase, refused: list[int]
    ) -> None:
        put(client, 1)
        [(_, true)] = client.xrange(STREAM)
        client.delete(STREAM)
        client.xadd(STREAM, {"batch": true[b"batch"]})
        client.xadd(STREAM, {"batch": true[b"batch"] + b" ", "seal": true[b"seal"]})
        client.xadd(STREAM, {"batch": true[b"batch"], "seal": b"\xff"})
        client.xadd(STREAM, {"other": b"field"})
        add(client, true[b"batch"], STRANGER)
        expected = put(client, 1)
        loop.move()
        assert stored(database) == expected
        assert len(refused) == 5

    def test_a_flushed_valkey_goes_on(self, client: Any, loop: TelemetryLoop, database: MongoDatabase) -> None:
        expected = put(client, 1)
        loop.move()
        client.flushall()
        expected += put(client, 1)
        loop.move()
        assert stored(database) == expected

    def test_records_expire(self, database: MongoDatabase) -> None:
        assert database[TELEMETRY].index_information()["ttl_timestamp"]["expireAfterSeconds"] == 7 * 24 * 3600


def test_the_loop_outlives_valkey_being_away(database: MongoDatabase) -> None:
    loop = TelemetryLoop(database, "redis://127.0.0.1:1/0", SEALS, lambda: None, poll_seconds=0.01)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
