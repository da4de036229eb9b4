"""The cached directory, and what a caller may see."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.auth.caller import CallerContext
from shared.auth.permissions import Role, Scope
from shared.auth.principals import CachedDirectory, Principal
from shared.errors import NotFound, ValidationFailed


def principal(customer_id: int, **changes: object) -> Principal:
    basis = Principal(
        customer_id=customer_id,
        username=f"user{customer_id}",
        role=Role.CUSTOMER,
        tier="STANDARD",
        tier_priority=3,
        rate_limit=100,
        fee_rate=Decimal(0),
        fee_minimum=Decimal(0),
        active=True,
        tokens_valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        organization_id="o",
        beneficial_owner_id=customer_id,
    )
    return replace(basis, **changes)  # type: ignore[arg-type]


class Store:
    """Knows everybody but 404."""

    def __init__(self) -> None:
        self.queries: list[set[int]] = []

    def load(self, ids: Collection[int]) -> list[Principal]:
        self.queries.append(set(ids))
        return [principal(number) for number in ids if number != 404]


class TestCachedDirectory:
    def test_asks_the_store_once_a_second(self) -> None:
        store = Store()
        directory = CachedDirectory(store.load, cache_seconds=0.05)
        assert directory.peek(1) is None
        directory.get(1)
        directory.get(1)
        assert (store.queries, directory.peek(1)) == ([{1}], principal(1))
        time.sleep(0.06)
        directory.get(1)
        assert store.queries == [{1}, {1}]

    def test_one_query_refreshes_all_who_were_asked_for(self) -> None:
        store = Store()
        directory = CachedDirectory(store.load, cache_seconds=0.1)
        for number in (1, 2, 3):
            directory.get(number)
            assert directory.peek(number) == principal(number)
        directory.forget(3)
        directory.get(3)  # and nobody asks for him any more
        time.sleep(0.11)
        assert directory.peek(1) is None  # who finds it past its second
        assert directory.peek(2) == principal(2)  # others need not wait for him
        directory.get(1)
        assert store.queries[4:] == [{1, 2}]

    def test_those_looked_for_in_one_moment_are_loaded_together(self) -> None:
        store = Store()

        async def look() -> list[Principal | None]:
            directory = CachedDirectory(store.load, load_id={"user2": 2}.get)
            return list(await asyncio.gather(*map(directory.find, (1, "user2", 404, "nobody", 1))))

        assert asyncio.run(look()) == [principal(1), principal(2), None, None, principal(1)]
        assert store.queries == [{1, 2, 404}]

    def test_forgets_on_demand_and_when_full(self) -> None:
        store = Store()
        directory = CachedDirectory(store.load, entries_max=2)
        for number in (1, 2, 3, 3):
            directory.get(number)
        assert directory.peek(1) is None
        directory.forget(3)
        directory.get(3)
        assert store.queries == [{1}, {2}, {3}, {3}]

    def test_waits_for_what_is_on_its_way(self) -> None:
        arrives = time.monotonic() + 0.1
        store = Store()
        directory = CachedDirectory(lambda ids: store.load(ids) if time.monotonic() > arrives else [])
        assert directory.get(1) is None
        assert directory.wait_for(1) == principal(1)

    def test_gives_up(self) -> None:
        assert CachedDirectory(lambda _: []).wait_for(1, timeout_seconds=0.1) is None


PEOPLE = {1: principal(1), 2: principal(2, brokers=frozenset({9})), 9: principal(9, role=Role.BROKER)}


def people(ids: Collection[int]) -> list[Principal]:
    return [PEOPLE[number] for number in ids if number in PEOPLE]


class TestRequireCustomer:
    def caller(self, customer_id: int, scope: Scope) -> CallerContext:
        directory = CachedDirectory(people, lambda broker: frozenset({2}) if broker == 9 else frozenset())
        return CallerContext(PEOPLE[customer_id], scope, directory, "c")

    def test_own(self) -> None:
        caller = self.caller(1, Scope.OWN)
        assert caller.require_customer(1).customer_id == 1
        assert (caller.may_see(1), caller.may_see(2)) == (True, False)
        assert caller.visible_customers() == [1]

    @pytest.mark.parametrize("named", [2, 404])
    def test_others_and_nobody_get_the_same_answer_at_once(self, named: int) -> None:
        for caller in (self.caller(1, Scope.OWN), self.caller(1, Scope.ASSIGNED)):
            started = time.monotonic()
            with pytest.raises(ValidationFailed) as refusal:
                caller.require_customer(named, "body")
            assert refusal.value.errors[0].pointer == "/customer_id"
            for where in ("path", "query"):
                with pytest.raises(NotFound):
                    caller.require_customer(named, where)  # type: ignore[arg-type]
            assert time.monotonic() - started < 0.5

    def test_assigned(self) -> None:
        caller = self.caller(9, Scope.ASSIGNED)
        assert caller.require_customer(2).customer_id == 2
        assert (caller.may_see(2), caller.may_see(1)) == (True, False)
        assert caller.visible_customers(2) == [2]
        assert caller.visible_customers() == [2, 9]

    def test_any_sees_all_and_filters_by_whom_it_names(self) -> None:
        caller = self.caller(1, Scope.ANY)
        assert caller.visible_customers() is None
        assert caller.visible_customers(2) == [2]
        assert caller.context(2).actor.on_behalf_of == 2
        assert caller.context(1).actor.on_behalf_of is None
