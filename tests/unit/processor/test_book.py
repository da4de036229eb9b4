"""Who trades with whom, in which order and at what price."""

from collections import Counter
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.matching.book import Match, QueuedOrder, any_cross, crosses, default_price, sweep
from processor.matching.policy import Policy, sort_key

_numbers = count(1)


def create_order(
    side: str, price: object, size: object = 10, *, priority: int = 1, owner: int | None = None
) -> QueuedOrder:
    number = next(_numbers)
    return QueuedOrder(
        f"{side}-{number}",
        number,
        owner if owner is not None else number,
        side == "BUY",
        Decimal(str(price)),
        priority,
        number,
        Decimal(str(size)),
    )


def match(orders: list[QueuedOrder], policy: Policy = Policy.TIER_PRICE_TIME, limit: int = 1000) -> list[Match]:
    ordered = sorted(orders, key=sort_key(policy))
    return sweep([o for o in ordered if o.is_buy], [o for o in ordered if not o.is_buy], limit=limit)


def pairs(matches: list[Match]) -> list[tuple[str, str, str, str]]:
    return [(m.buy.order_id, m.sell.order_id, str(m.size), str(m.price)) for m in matches]


class TestPolicies:
    """The same three sellers for one buyer: who is served first."""

    @pytest.fixture
    def sells(self) -> dict[str, QueuedOrder]:
        return {
            "early": create_order("SELL", 11, 5, priority=2),
            "cheap": create_order("SELL", 10, 5, priority=3),
            "vip": create_order("SELL", 12, 5, priority=1),
            "late": create_order("SELL", 11, 5, priority=1),
        }

    @pytest.mark.parametrize(
        ("policy", "order"),
        [
            (Policy.TIER_PRICE_TIME, ["late", "vip", "early", "cheap"]),
            (Policy.PRICE_TIER_TIME, ["cheap", "late", "early", "vip"]),
            (Policy.PRICE_TIME, ["cheap", "early", "late", "vip"]),
        ],
    )
    def test_sellers_are_served_in_its_order(
        self, sells: dict[str, QueuedOrder], policy: Policy, order: list[str]
    ) -> None:
        buy = create_order("BUY", 12, 20)
        served = [m.sell.order_id for m in match([buy, *sells.values()], policy)]
        assert served == [sells[name].order_id for name in order]

    @pytest.mark.parametrize(
        ("policy", "order"),
        [
            (Policy.TIER_PRICE_TIME, ["late", "vip", "early", "dear"]),
            (Policy.PRICE_TIER_TIME, ["dear", "late", "early", "vip"]),
            (Policy.PRICE_TIME, ["dear", "early", "late", "vip"]),
        ],
    )
    def test_buyers_are_served_in_its_order(self, policy: Policy, order: list[str]) -> None:
        buys = {
            "early": create_order("BUY", 11, 5, priority=2),
            "dear": create_order("BUY", 12, 5, priority=3),
            "vip": create_order("BUY", 10, 5, priority=1),
            "late": create_order("BUY", 11, 5, priority=1),
        }
        sell = create_order("SELL", 10, 20)
        assert [m.buy.order_id for m in match([sell, *buys.values()], policy)] == [buys[n].order_id for n in order]

    def test_a_tier_never_overrules_the_price_limits(self) -> None:
        vip = create_order("BUY", 9, priority=1)
        standard = create_order("BUY", 10, priority=3)
        sell = create_order("SELL", 10)
        assert [m.buy.order_id for m in match([vip, standard, sell])] == [standard.order_id]


class TestSweep:
    def test_the_price_is_the_limit_of_who_joined_first(self) -> None:
        buy, sell = create_order("BUY", 12), create_order("SELL", 10)
        assert default_price(buy, sell) == Decimal(12)
        assert pairs(match([buy, sell])) == [(buy.order_id, sell.order_id, "10", "12")]
        sell, buy = create_order("SELL", 10), create_order("BUY", 12)
        assert default_price(buy, sell) == Decimal(10)

    def test_a_large_order_is_filled_in_parts_and_keeps_its_rest(self) -> None:
        buy = create_order("BUY", 10, 25)
        sells = [create_order("SELL", 9, 10), create_order("SELL", 10, 10)]
        assert [m.size for m in match([buy, *sells])] == [10, 10]
        assert [o.remaining for o in (buy, *sells)] == [5, 0, 0]

    def test_the_rest_of_a_seller_goes_to_the_next_buyer(self) -> None:
        buys = [create_order("BUY", 10, 4), create_order("BUY", 10, 3)]
        sell = create_order("SELL", 10, 10)
        assert [(m.buy.order_id, m.size) for m in match([*buys, sell])] == [
            (buys[0].order_id, 4),
            (buys[1].order_id, 3),
        ]
        assert sell.remaining == 3

    def test_nobody_trades_with_himself_but_the_next_is_served(self) -> None:
        buy = create_order("BUY", 10, 10, owner=7)
        own = create_order("SELL", 9, 10, owner=7)
        other = create_order("SELL", 10, 10, owner=8)
        assert not crosses(buy, own)
        assert [m.sell.order_id for m in match([buy, own, other])] == [other.order_id]
        assert own.remaining == 10

    def test_orders_of_two_customers_with_one_owner_do_not_trade(self) -> None:
        assert match([create_order("BUY", 10, owner=5), create_order("SELL", 10, owner=5)]) == []

    def test_prices_that_do_not_meet_leave_everything(self) -> None:
        buy, sell = create_order("BUY", "9.99"), create_order("SELL", 10)
        assert match([buy, sell]) == []
        assert not any_cross([buy], [sell])

    def test_the_limit_ends_the_sweep_and_more_is_left(self) -> None:
        buys = [create_order("BUY", 10, 1) for _ in range(3)]
        sells = [create_order("SELL", 10, 1) for _ in range(3)]
        assert len(match([*buys, *sells], limit=2)) == 2
        assert any_cross(buys, sells)

    def test_an_empty_side_matches_nothing(self) -> None:
        assert sweep([], [create_order("SELL", 1)], limit=5) == []
        assert sweep([create_order("BUY", 1)], [], limit=5) == []


ORDERS = st.lists(
    st.builds(
        create_order,
        st.sampled_from(["BUY", "SELL"]),
        st.integers(95, 105),
        st.integers(1, 20),
        priority=st.integers(1, 3),
        owner=st.integers(1, 6),
    ),
    max_size=30,
)


class TestAnyBook:
    @given(orders=ORDERS, policy=st.sampled_from(Policy), limit=st.integers(1, 40))
    def test_matches_respect_limits_owners_and_sizes(
        self, orders: list[QueuedOrder], policy: Policy, limit: int
    ) -> None:
        before = {order.order_id: order.remaining for order in orders}
        matches = match(orders, policy, limit)
        assert len(matches) <= limit
        taken: Counter[str] = Counter()
        for found in matches:
            assert found.sell.price <= found.price <= found.buy.price
            assert found.buy.is_buy and not found.sell.is_buy
            assert found.buy.beneficial_owner_id != found.sell.beneficial_owner_id
            assert found.size > 0
            first = min(found.buy, found.sell, key=lambda order: order.joined_seq)
            assert found.price == first.price
            for side in (found.buy, found.sell):
                taken[side.order_id] += found.size  # type: ignore[assignment]
        for order in orders:
            assert order.remaining == before[order.order_id] - taken[order.order_id] >= 0

    @given(orders=ORDERS, policy=st.sampled_from(Policy))
    def test_nothing_crosses_after_a_sweep_without_limit(self, orders: list[QueuedOrder], policy: Policy) -> None:
        match(orders, policy, limit=10_000)
        buys = [order for order in orders if order.is_buy]
        sells = [order for order in orders if not order.is_buy]
        assert not any_cross(buys, sells)
        assert match(orders, policy) == []

    @given(orders=ORDERS, policy=st.sampled_from(Policy), limit=st.integers(1, 5))
    def test_small_sweeps_in_a_row_make_the_trades_of_one_large(
        self, orders: list[QueuedOrder], policy: Policy, limit: int
    ) -> None:
        """Cut at any point, a run goes on where it stopped."""
        sizes = [order.remaining for order in orders]
        whole = pairs(match(orders, policy, limit=10_000))
        for order, size in zip(orders, sizes, strict=True):
            order.remaining = size
        parts: list[tuple[str, str, str, str]] = []
        while found := match(orders, policy, limit):
            parts += pairs(found)
        assert parts == whole
