"""Random commands of a few customers against a model; after each the invariants hold, and at rest every balance is the model's."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from order_service.errors import OrderAlreadyFinal
from processor.errors import OrderNotOpen, PricesDoNotCross, SelfTrade, SizeExceedsRemainder
from shared.errors import BrokageError, ValidationFailed
from shared.testing.pump import SOURCES
from tests.integration.properties.invariants import check_any_instant, check_at_rest, check_ledger, statuses
from tests.integration.properties.model import Fill, Model, Order, Terms
from tests.integration.properties.world import World

TERMS = {
    1: Terms(Decimal(0), Decimal(0)),
    2: Terms(Decimal("0.0015"), Decimal("0.5")),
    # A minimum above the proceeds of small sales, and a rate that never comes out even.
    3: Terms(Decimal("0.0333"), Decimal(12)),
}
CUSTOMERS = tuple(TERMS)
CENT, SIZE_UNIT = Decimal("0.01"), Decimal("0.000001")
START_CASH, START_SHARES = Decimal(400), Decimal(20)

numbers = st.integers(0, 1000)
customers = st.sampled_from(CUSTOMERS)
sizes = st.sampled_from(["0.25", "1", "2.5", "3.333333", "7", "12"]).map(Decimal)
# Most buyers would pay more than most sellers ask; mostly it is the same share.
buy_prices = st.integers(990, 1050).map(lambda cents: cents * CENT)
sell_prices = st.integers(950, 1010).map(lambda cents: cents * CENT)
shares = st.sampled_from([0, 0, 0, 1])
portions = st.sampled_from([None, Decimal("0.3"), Decimal("0.5"), Decimal(1), Decimal("1.1")])
# How far into the room between both limits the price of a cross lies; outside of it the cross is refused.
ways = st.sampled_from([None, Decimal(0), Decimal("0.4"), Decimal(1), Decimal("1.5")])
improvements = st.sampled_from([None, 0, 1, 37, -1])


@dataclass(frozen=True)
class Place:
    customer: int
    share: int
    side: str
    size: Decimal
    price: Decimal


@dataclass(frozen=True)
class Cancel:
    order: int


@dataclass(frozen=True)
class Expire:
    """Its time is over, and the sweep comes round."""

    order: int


@dataclass(frozen=True)
class House:
    order: int
    improvement: int | None
    portion: Decimal | None


@dataclass(frozen=True)
class Cross:
    share: int
    buy: int
    sell: int
    way: Decimal | None
    portion: Decimal | None


@dataclass(frozen=True)
class Run:
    share: int


@dataclass(frozen=True)
class Deposit:
    customer: int
    asset: int
    amount: Decimal


@dataclass(frozen=True)
class Withdraw:
    customer: int
    asset: int
    amount: Decimal


Step = Place | Cancel | Expire | House | Cross | Run | Deposit | Withdraw
buys = st.builds(Place, customers, shares, st.just("BUY"), sizes, buy_prices)
sells = st.builds(Place, customers, shares, st.just("SELL"), sizes, sell_prices)
places = st.one_of(buys, sells)
commands: st.SearchStrategy[Step] = st.one_of(
    places,
    st.builds(Cancel, numbers),
    st.builds(Expire, numbers),
    st.builds(House, numbers, improvements, portions),
    st.builds(House, numbers, st.just(1), st.sampled_from([Decimal("0.3"), Decimal("0.5")])),
    st.builds(Cross, shares, numbers, numbers, ways, portions),
    st.builds(Run, shares),
    st.builds(Deposit, customers, st.integers(0, 2), sizes),
    st.builds(Withdraw, customers, st.integers(0, 2), st.sampled_from(["0.5", "15", "100"]).map(Decimal)),
)
# An example begins with orders of both sides, so that there is something to trade.
starts = st.tuples(buys, sells, places, places)
rounds = st.lists(st.lists(commands, min_size=1, max_size=6), min_size=3, max_size=6)


class Example:
    """One run over assets of its own, so that examples do not see each other."""

    def __init__(self, world: World, number: int, done: Counter[str]) -> None:
        self._world = world
        self._done = done
        self.cash = f"CASH{number}"
        self.shares = (f"A{number}", f"B{number}")
        self.names = (self.cash, *self.shares)
        self.model = Model(self.cash, TERMS)
        world.define(self.cash, *self.shares)
        for customer in CUSTOMERS:
            self._deposit(customer, self.cash, START_CASH)
            for share in self.shares:
                self._deposit(customer, share, START_SHARES)
        world.drain()

    def play(self, steps: Sequence[Step]) -> None:
        """One round: all steps, then all messages."""
        for step in steps:
            self._do(step)
            check_any_instant(self._world, self.names)
        self.settle()

    def cancel_all(self) -> None:
        """Everything that is reserved comes back."""
        for order in self.model.orders.values():
            if order.is_open:
                self._cancel(order)
        self.settle()
        for customer in CUSTOMERS:
            for name in self.names:
                assert self.model.usable(customer, name) == self.model.size(customer, name)

    def settle(self) -> None:
        self._world.drain()
        self.model.end_round(statuses(self._world, self.names))
        check_at_rest(self._world, self.model, self.names)

    def _do(self, step: Step) -> None:
        match step:
            case Place():
                self._place(step)
            case Cancel():
                if self.model.orders:
                    self._cancel(self._pick(step.order))
            case Expire():
                if self.model.orders:
                    self._expire(self._pick(step.order))
            case House():
                if self.model.orders:
                    self._house(self._pick(step.order), step)
            case Cross():
                self._cross(step)
            case Run():
                self._run(self.shares[step.share])
            case Deposit():
                self._deposit(step.customer, self.names[step.asset], step.amount)
            case Withdraw():
                self._withdraw(step.customer, self.names[step.asset], step.amount)

    def _pick(self, number: int, **values: Any) -> Order:
        """An order with these values; on the book if one is, but one in six of any kind."""
        found = [
            order
            for order in self.model.orders.values()
            if all(getattr(order, name) == value for name, value in values.items())
        ]
        on_book = [order for order in found if order.on_book]
        among = on_book if on_book and number % 6 else found
        return among[number % len(among)]

    def _place(self, step: Place) -> None:
        share = self.shares[step.share]
        order_id = self._world.place(step.customer, share, step.side, step.size, step.price)
        terms = TERMS[step.customer]
        self.model.orders[order_id] = Order(order_id, step.customer, step.side, share, step.size, step.price, terms)
        self._done["placed"] += 1

    def _cancel(self, order: Order) -> None:
        with self._refused(OrderAlreadyFinal if order.status in ("MATCHED", "REJECTED") else None):
            self._world.cancel(order.id)
            order.cancel_requested = True
            self._done["canceled"] += 1

    def _expire(self, order: Order) -> None:
        """Only what is on the book ends so; what is in settlement all of it, or canceled and told, does not."""
        on_book = order.on_book
        assert self._world.expire(order.id) == on_book
        if on_book:
            order.time_over = True
            self._done["expired"] += 1

    def _house(self, order: Order, step: House) -> None:
        better = -CENT if order.is_buy else CENT
        price = None if step.improvement is None else order.price + better * step.improvement
        size = _part(order.free, step.portion)
        expected: type[BrokageError] | None = None
        if not order.on_book:
            expected = OrderNotOpen
        elif (step.improvement or 0) < 0:
            expected = PricesDoNotCross
        elif size is not None and size > order.free:
            expected = SizeExceedsRemainder
        with self._refused(expected):
            (trade,) = self._world.match(order.id, price=price, size=size)
            assert (trade["price"], trade["size"]) == (price or order.price, size or order.free)
            assert trade["sell_order_id" if order.is_buy else "buy_order_id"] is None
            self._take([trade])
            self._done["house"] += 1

    def _cross(self, step: Cross) -> None:
        share = self.shares[step.share]
        sides = {order.side for order in self.model.orders.values() if order.share == share}
        if sides != {"BUY", "SELL"}:
            return
        buy = self._pick(step.buy, share=share, side="BUY")
        sell = self._pick(step.sell, share=share, side="SELL")
        room = buy.price - sell.price
        price = None if step.way is None else sell.price + (room * step.way).quantize(CENT, rounding=ROUND_DOWN)
        remainder = min(buy.free, sell.free)
        size = _part(remainder, step.portion)
        with self._refused(self._cross_refusal(buy, sell, price, size)):
            (trade,) = self._world.cross(buy.id, sell.id, price=price, size=size)
            assert trade["size"] == (size or remainder)
            assert trade["price"] in ({buy.price, sell.price} if price is None else {price})
            self._take([trade])
            self._done["crossed"] += 1

    def _cross_refusal(
        self, buy: Order, sell: Order, price: Decimal | None, size: Decimal | None
    ) -> type[BrokageError] | None:
        for order in (buy, sell):
            if order.status == "PENDING_RESERVATION":
                return ValidationFailed  # the processor has not heard of it yet
            if not order.on_book:
                return OrderNotOpen
        if buy.customer == sell.customer:
            return SelfTrade
        if buy.price < sell.price or (price is not None and not sell.price <= price <= buy.price):
            return PricesDoNotCross
        return SizeExceedsRemainder if size is not None and size > min(buy.free, sell.free) else None

    def _run(self, share: str) -> None:
        trades = self._world.run(share)
        for trade in trades:
            buy, sell = self.model.orders[trade["buy_order_id"]], self.model.orders[trade["sell_order_id"]]
            assert buy.customer != sell.customer
            assert sell.price <= trade["price"] <= buy.price
            assert trade["price"] in (buy.price, sell.price)
        self._take(trades)
        assert self.model.crossing(share) == []
        self._done["swept"] += len(trades)

    def _take(self, trades: list[dict[str, Any]]) -> None:
        for trade in trades:
            for side in ("buy_order_id", "sell_order_id"):
                if trade[side] is not None:
                    order = self.model.orders[trade[side]]
                    order.pending.append(Fill(trade["size"], trade["price"]))
                    assert order.free >= 0

    def _deposit(self, customer: int, asset_name: str, amount: Decimal) -> None:
        self._world.deposit(customer, asset_name, amount)
        self.model.pay_in(customer, asset_name, amount)

    def _withdraw(self, customer: int, asset_name: str, amount: Decimal) -> None:
        possible = self.model.usable(customer, asset_name) >= amount
        assert self._world.withdraw(customer, asset_name, amount) == possible
        if possible:
            self.model.pay_in(customer, asset_name, -amount)
            self._done["withdrawn"] += 1

    @contextmanager
    def _refused(self, error: type[BrokageError] | None) -> Iterator[None]:
        """The block ends with exactly this error, or without one."""
        try:
            yield
        except BrokageError as found:
            assert type(found) is error, (found, error)
            self._done["refused"] += 1
        else:
            assert error is None, error


def _part(whole: Decimal, portion: Decimal | None) -> Decimal | None:
    """A size at the instrument's scale, more than the whole for portions above 1."""
    if portion is None:
        return None
    return max((whole * portion).quantize(SIZE_UNIT, rounding=ROUND_DOWN), SIZE_UNIT)


@pytest.fixture(scope="module")
def world(servers: Any, fresh_database: Callable[[str], str]) -> Iterator[World]:
    own = {variable: fresh_database(service) for service, variable in SOURCES.items()}
    found = World({**servers.env, **own}, TERMS)
    yield found
    found.close()


class TestRandomTrading:
    def test_every_balance_is_the_models_and_the_invariants_hold(self, world: World) -> None:
        examples, done = count(1), Counter[str]()

        # Not shrunk: an example is short enough to be read, and on real databases shrinking takes minutes.
        @settings(
            max_examples=28,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(starts, rounds)
        def play(start: tuple[Place, ...], played: list[list[Step]]) -> None:
            example = Example(world, next(examples), done)
            for steps in (start, *played):
                example.play(steps)
            example.cancel_all()

        play()
        check_ledger(world)
        for kind in ("placed", "canceled", "expired", "house", "crossed", "swept", "withdrawn", "refused"):
            assert done[kind] > 0, f"no example {kind}: {done}"
