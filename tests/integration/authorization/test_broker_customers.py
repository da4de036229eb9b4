"""`broker:{id}:customers`: five minutes in Valkey, dropped by the event that changes it."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from shared.auth.broker_customers import CHANGING_SECONDS, BrokerCustomers
from shared.http.valkey import Valkey
from tests.integration.world import World


@pytest.fixture
def valkey(servers: Any) -> redis.Redis:
    return redis.Redis.from_url(servers.env["BROKAGE_REDIS_URL"])


@pytest.fixture
def cache(servers: Any) -> Iterator[BrokerCustomers]:
    client = Valkey(servers.env["BROKAGE_REDIS_URL"])
    yield BrokerCustomers(client, "order_service")
    client.close()


def owners(world: World, path: str) -> set[int]:
    found = world.request("GET", f"{path}?limit=200", "broker").json()["data"]
    return {entry["customer_id"] for entry in found}


def test_is_filled_by_a_list_and_dropped_by_the_event(world: World, valkey: Any) -> None:
    broker, stranger = world.people["broker"], world.people["stranger"]
    key = f"broker:{broker}:customers"
    for path in ("/api/orders", "/api/assets"):
        assert stranger not in owners(world, path)
    assert set(valkey.hkeys(key)) == {b"order_service", b"asset_service"}
    assert 290 <= valkey.ttl(key) <= 300
    path = f"/api/brokers/{broker}/customers"
    assert world.request("POST", path, "admin", json={"customer_id": stranger}).status_code == 201
    world.pump.drain()
    assert not valkey.exists(key)
    for shown in ("/api/orders", "/api/assets"):
        assert stranger in owners(world, shown)
    assert world.request("DELETE", f"{path}/{stranger}", "admin").status_code == 204
    world.pump.drain()
    for shown in ("/api/orders", "/api/assets"):
        assert stranger not in owners(world, shown)


def test_what_was_read_before_a_change_is_not_cached_after_it(cache: BrokerCustomers, valkey: Any) -> None:
    def slow(_: int) -> frozenset[int]:
        cache.forget(7)  # the change comes while the store is being read
        return frozenset({1})

    assert cache.get(7, slow) == {1}
    assert not valkey.exists("broker:7:customers")
    assert 0 < valkey.ttl("broker:7:changing") <= CHANGING_SECONDS
    valkey.delete("broker:7:changing")
    assert cache.get(7, lambda _: frozenset({2, 3})) == {2, 3}
    assert cache.get(7, slow) == {2, 3}


def test_a_broker_without_customers_is_known_to_have_none(cache: BrokerCustomers) -> None:
    asked: list[int] = []

    def load(broker_id: int) -> frozenset[int]:
        asked.append(broker_id)
        return frozenset()

    assert cache.get(8, load) == cache.get(8, load) == frozenset()
    assert asked == [8]


def test_without_valkey_the_store_is_asked() -> None:
    away = Valkey("redis://127.0.0.1:1/0")
    cache = BrokerCustomers(away, "order_service")
    cache.forget(9)
    assert [cache.get(9, lambda _, n=n: frozenset({n})) for n in (1, 2)] == [{1}, {2}]
    away.close()
