"""Random commands in random batches: the invariants of the contract hold after each, and batches change nothing."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asset_service import ledger
from asset_service.ledger import customer_account
from asset_service.settlement import needed
from asset_service.states import ReservationStatus
from shared.contracts.assets import AssetReleased, AssetReserved
from shared.contracts.message import Message
from shared.contracts.orders import OrderSide
from shared.contracts.trades import TradeSettled
from tests.unit.asset_service.worlds import World, release, reserve, settle

CUSTOMERS = (1, 2, 3)
UNIT = Decimal("0.000001")
SIZES = st.integers(1, 3_000_000).map(lambda units: Decimal(units).scaleb(-6))
PRICES = st.integers(9_000, 11_000).map(lambda units: Decimal(units).scaleb(-2))
RATES = st.sampled_from([Decimal(0), Decimal("0.001"), Decimal("0.0337")])
MINIMA = st.sampled_from([Decimal(0), Decimal("1.5"), Decimal("40")])


@dataclass(frozen=True)
class Order:
    id: str
    customer_id: int
    side: str
    size: Decimal
    price: Decimal
    fee_rate: Decimal
    fee_minimum: Decimal

    def reserve(self) -> Message[Any]:
        return reserve(
            self.id,
            self.customer_id,
            self.side,
            self.size,
            self.price,
            fee_rate=self.fee_rate,
            fee_minimum=self.fee_minimum,
        )


@st.composite
def orders(draw: st.DrawFn) -> list[Order]:
    count = draw(st.integers(2, 6))
    return [
        Order(
            f"o{number}",
            number + 1 if number < 2 else draw(st.sampled_from(CUSTOMERS)),
            ("BUY", "SELL")[number] if number < 2 else draw(st.sampled_from(["BUY", "SELL"])),
            draw(SIZES),
            draw(PRICES),
            draw(RATES),
            draw(MINIMA),
        )
        for number in range(count)
    ]


@st.composite
def schedules(draw: st.DrawFn) -> list[Message[Any]]:
    known = draw(orders())
    buys = [order for order in known if order.side == "BUY"]
    sells = [order for order in known if order.side == "SELL"]
    commands = [order.reserve() for order in known if draw(st.integers(0, 9))]
    for _ in range(draw(st.integers(1, 15))):
        kind = draw(st.sampled_from(["reserve", "release", "settle", "settle", "settle", "settle"]))
        order = draw(st.sampled_from(known))
        if kind == "reserve":
            commands.append(order.reserve())
        elif kind == "release":
            commands.append(release(order.id, order.customer_id, draw(st.sampled_from(["CANCELED", "EXPIRED"]))))
        else:
            commands.append(_trade(draw, buys, sells))
    return commands


def _trade(draw: st.DrawFn, buys: list[Order], sells: list[Order]) -> Message[Any]:
    buy = draw(st.sampled_from([*buys, *buys, None]))
    sell = draw(st.sampled_from([*sells, *sells, None]))
    sizes = [order.size for order in (buy, sell) if order is not None]
    prices = [order.price for order in (buy, sell) if order is not None]
    size = min(sizes, default=Decimal(1))
    # Mostly a part of what is open, so that several fills of one order follow each other.
    size = draw(st.sampled_from([size, (size / 3).quantize(UNIT) or UNIT, (size / 7).quantize(UNIT) or UNIT, size * 2]))
    price = draw(st.one_of(st.sampled_from(prices), PRICES)) if prices else Decimal(100)
    return settle(
        f"t{draw(st.integers(0, 25))}",
        (buy.id, buy.customer_id) if buy else None,
        (sell.id, sell.customer_id) if sell else None,
        size,
        price,
    )


def fresh_world() -> World:
    return World({(1, "TRY"): "500", (1, "AAPL"): "3", (2, "TRY"): "250.5", (2, "AAPL"): "3", (3, "TRY"): "400"})


def check_invariants(world: World) -> None:
    blocked: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for reservation in world.reservations.values():
        assert reservation.remaining >= 0
        if reservation.status is ReservationStatus.ACTIVE:
            assert reservation.asset_name is not None
            blocked[(reservation.customer_id, reservation.asset_name)] += reservation.remaining
            if reservation.order_side == OrderSide.BUY:
                need = needed(reservation, reservation.open_size, reservation.filled_notional)
                assert reservation.remaining == need
            else:
                assert reservation.remaining == reservation.open_size
            assert reservation.open_size > 0
        else:
            assert reservation.remaining == 0
    for key, asset in world.assets.items():
        assert 0 <= asset.usable_size <= asset.size
        assert asset.size - asset.usable_size == blocked[key], key
        assert asset.low_balance == (asset.usable_size < asset.size / 10)
        assert asset.size == world.deposited.get(key, Decimal(0)) + world.ledger_sum(customer_account(*key))
    for posting in world.postings:
        assert ledger.is_balanced(posting.legs)
        assert len(posting.legs) >= 2
    assert len({posting.tx_ref for posting in world.postings}) == len(world.postings)


def check_against_what_was_said(world: World) -> None:
    """An independent account: what the events say moved is what moved."""
    size = dict(world.deposited)
    spent: dict[str, Decimal] = defaultdict(Decimal)
    for said in world.answers:
        event = said.payload
        if said.repeated:
            continue
        if isinstance(event, AssetReserved):
            assert world.reservations[said.aggregate_id].amount == event.amount
        elif isinstance(event, AssetReleased):
            assert (world.reservations[said.aggregate_id].release_amount or 0) == event.amount
        elif isinstance(event, TradeSettled):
            assert event.notional == event.size * event.price
            if event.buyer_id is not None:
                cost = event.notional + event.buyer_fee
                spent[str(event.buy_order_id)] += cost
                size[(event.buyer_id, "TRY")] = size.get((event.buyer_id, "TRY"), Decimal(0)) - cost
                size[(event.buyer_id, "AAPL")] = size.get((event.buyer_id, "AAPL"), Decimal(0)) + event.size
            if event.seller_id is not None:
                assert 0 <= event.seller_fee <= event.notional
                size[(event.seller_id, "TRY")] = (
                    size.get((event.seller_id, "TRY"), Decimal(0)) + event.notional - event.seller_fee
                )
                size[(event.seller_id, "AAPL")] = size.get((event.seller_id, "AAPL"), Decimal(0)) - event.size
    assert {key: value for key, value in size.items() if value} == {
        key: asset.size for key, asset in world.assets.items() if asset.size
    }
    for order_id, cost in spent.items():
        assert world.reservations[order_id].consumed == cost


def outcome(world: World) -> Any:
    return (
        {key: (a.size, a.usable_size, a.low_balance) for key, a in world.assets.items()},
        {
            order_id: (
                r.status,
                r.amount,
                r.consumed,
                r.released,
                r.refusal,
                r.release_amount,
                r.open_size,
                r.fee_charged,
            )
            for order_id, r in world.reservations.items()
        },
        world.settlements,
        [(posting.tx_ref, posting.digest) for posting in world.postings],
        [(said.aggregate_id, said.payload, said.repeated) for said in world.answers],
    )


@settings(max_examples=300, deadline=None)
@given(schedules(), st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_invariants_hold_after_each_batch_and_batches_do_not_matter(
    schedule: list[Message[Any]], sizes: list[int]
) -> None:
    one_by_one = fresh_world()
    for command in schedule:
        one_by_one.run(command)
        check_invariants(one_by_one)
    batched, position, turn = fresh_world(), 0, 0
    while position < len(schedule):
        step = sizes[turn % len(sizes)]
        batched.run(*schedule[position : position + step])
        check_invariants(batched)
        position, turn = position + step, turn + 1
    check_against_what_was_said(batched)
    assert outcome(batched) == outcome(one_by_one)


@settings(max_examples=100, deadline=None)
@given(schedules())
def test_everything_twice_is_as_once(schedule: list[Message[Any]]) -> None:
    once, twice = fresh_world(), fresh_world()
    for command in schedule:
        once.run(command)
        twice.run(command, command)
    assert outcome(once)[:4] == outcome(twice)[:4]
    assert [s.payload for s in once.answers if not s.repeated] == [s.payload for s in twice.answers if not s.repeated]
