"""The database keeps what the fold decides: random batches on Postgres end as they do in memory, crashes included."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asset_service.service import verification
from shared.contracts.message import Message
from shared.contracts.trades import SettleTrade
from shared.faults import InjectedFault, inject
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.test_fold_properties import check_invariants, schedules
from tests.unit.asset_service.worlds import World, reserve, settle

BALANCES = {(1, "TRY"): "500", (1, "AAPL"): "3", (2, "TRY"): "250.5", (2, "AAPL"): "3", (3, "TRY"): "400"}


class Renamed:
    """Gives a schedule's customers, orders and trades names that no other test uses."""

    def __init__(self, api: Api) -> None:
        self.customers = {
            1: api.customer(TRY="500", AAPL="3"),
            2: api.customer(TRY="250.5", AAPL="3"),
            3: api.customer(TRY="400"),
        }
        self._ids: dict[str | None, str] = {}

    def __call__(self, message: Message[Any]) -> Message[Any]:
        command = message.payload
        if isinstance(command, SettleTrade):
            command = msgspec.structs.replace(
                command,
                buy_order_id=command.buy_order_id and self._id(command.buy_order_id),
                sell_order_id=command.sell_order_id and self._id(command.sell_order_id),
                buyer_id=command.buyer_id and self.customers[command.buyer_id],
                seller_id=command.seller_id and self.customers[command.seller_id],
            )
        customer_id = message.customer_id and self.customers[message.customer_id]
        return msgspec.structs.replace(
            message, aggregate_id=self._id(message.aggregate_id), customer_id=customer_id, payload=command
        )

    def _id(self, name: str) -> str:
        return self._ids.setdefault(name, new_id())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedules(), st.integers(1, 7))
def test_random_batches_end_as_in_memory(api: Api, schedule: list[Message[Any]], size: int) -> None:
    renamed = Renamed(api)
    world = World({(renamed.customers[customer], name): amount for (customer, name), amount in BALANCES.items()})
    messages = [renamed(message) for message in schedule]
    for start in range(0, len(messages), size):
        batch = messages[start : start + size]
        world.run(*batch)
        api.handle(*batch)
    check_invariants(world)
    people = list(renamed.customers.values())
    stored = api.query(
        "SELECT customer_id, asset_name, size, usable_size, low_balance FROM assets WHERE customer_id = ANY(%s)", people
    )
    expected = [(*key, a.size, a.usable_size, a.low_balance) for key, a in world.assets.items()]
    assert sorted(stored) == sorted(expected)
    stored = api.query(
        "SELECT order_id::text, status, amount, consumed, released, remaining, open_size, filled_notional, fee_charged,"
        " refusal FROM asset_reservations WHERE customer_id = ANY(%s)",
        people,
    )
    assert sorted(stored, key=str) == sorted((_columns(each) for each in world.reservations.values()), key=str)
    assert verification.verify_ledger(api.resources.database).valid


def _columns(each: Any) -> tuple[Any, ...]:
    amounts = (each.amount, each.consumed, each.released, each.remaining, each.open_size)
    return (
        each.order_id,
        each.status.value,
        *map(_stored, amounts),
        _stored(each.filled_notional),
        _stored(each.fee_charged),
        each.refusal,
    )


def _stored(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("1e-18"))


class TestCrash:
    @pytest.mark.parametrize(
        "point",
        ["asset_service.locked", "asset_service.stored", "unit_of_work.before_flush", "unit_of_work.before_commit"],
    )
    def test_leaves_nothing_and_the_repeat_does_everything_once(self, api: Api, point: str) -> None:
        buyer, seller = api.customer(TRY="1000"), api.customer(AAPL="10")
        buy, sell, trade = new_id(), new_id(), new_id()
        batch = [
            reserve(buy, buyer, "BUY", "2", "100"),
            reserve(sell, seller, "SELL", "2", "100"),
            settle(trade, (buy, buyer), (sell, seller)),
        ]

        def crash(name: str) -> None:
            if name == point:
                raise InjectedFault(name)

        with inject(crash), pytest.raises(InjectedFault):
            api.handle(*batch)
        assert api.balance(buyer, "TRY") == (1000, 1000)
        assert api.answers(buy, sell, trade) == []
        api.handle(*batch)
        assert api.balance(buyer, "TRY") == (800, 800)
        assert api.balance(seller, "TRY") == (200, 200)
        assert len(api.answers(buy, sell, trade)) == 3
