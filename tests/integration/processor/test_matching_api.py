"""Matching over HTTP: against HOUSE, two orders against each other, and a sweep. Works, refused, repeated, concurrent."""

import time
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from processor import repository
from processor.service import matching
from shared.auth.permissions import Role
from shared.db import UnitOfWork
from shared.ids import new_id
from tests.integration.processor.conftest import Processor, cancel

CROSSES = "/api/matching/crosses"
RUN = "/api/matching/run"


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def sizes(processor: Processor, order_id: str) -> list[Decimal]:
    return [row["size"] for row in processor.trades(order_id)]


class TestMatchWithHouse:
    def test_takes_the_rest_at_the_order_s_limit(self, processor: Processor, admin: int) -> None:
        order = processor.resting("SELL", "10.50", "7")
        answer = processor.match(order, admin)
        assert answer.status_code == 202
        [trade] = answer.json()["trades"]
        assert (trade["sell_order_id"], trade["buy_order_id"]) == (order, None)
        assert (trade["size"], trade["price"], trade["status"]) == ("7", "10.5", "SETTLING")
        assert processor.entry(order) == (0, 7, 0, False)
        assert processor.state(trade["id"]) == "SETTLING"
        assert processor.said(trade["id"]) == ["SettleTrade"]
        assert processor.said(trade["id"], "auditor") == ["AdminActed"]

    def test_in_parts_and_at_a_better_price(self, processor: Processor, admin: int) -> None:
        order = processor.resting("BUY", "10", "7")
        trade = processor.match(order, admin, size="2.5", price="9.99").json()["trades"][0]
        assert (trade["size"], trade["price"]) == ("2.5", "9.99")
        assert processor.entry(order) == (Decimal("4.5"), Decimal("2.5"), 0, True)

    @pytest.mark.parametrize(("side", "price"), [("BUY", "10.01"), ("SELL", "9.99")])
    def test_never_at_a_price_worse_than_the_limit(
        self, processor: Processor, admin: int, side: str, price: str
    ) -> None:
        order = processor.resting(side, "10")
        assert code(processor.match(order, admin, price=price)) == (422, "prices-do-not-cross")
        assert processor.trades(order) == []

    def test_refuses_more_than_is_left(self, processor: Processor, admin: int) -> None:
        order = processor.resting(size="10")
        processor.matched(order, admin, size="4")
        assert code(processor.match(order, admin, size="6.000001")) == (422, "size-exceeds-remainder")
        assert sizes(processor, order) == [4]

    def test_refuses_more_decimals_than_the_instrument_has(self, processor: Processor, admin: int) -> None:
        answer = processor.match(processor.resting(), admin, size="0.0000001", price="9.999")
        assert code(answer) == (422, "validation-error")
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/price", "/size"]

    def test_refuses_what_is_not_on_the_book(self, processor: Processor, admin: int) -> None:
        full = processor.resting()
        processor.matched(full, admin)
        off = processor.resting()
        processor.tell(cancel(off))
        for order in (full, off):
            assert code(processor.match(order, admin)) == (409, "order-not-open")
        assert code(processor.match(new_id(), admin)) == (404, "not-found")

    def test_a_broker_matches_his_customers_orders_at_their_limit_only(self, processor: Processor) -> None:
        broker = processor.user(Role.BROKER)
        customer = processor.user(Role.CUSTOMER, brokers=(broker,))
        order = processor.resting("BUY", "10", customer_id=customer)
        assert code(processor.match(order, broker, price="9")) == (422, "prices-do-not-cross")
        assert processor.match(order, broker, size="1").status_code == 202
        assert code(processor.match(processor.resting(), broker)) == (404, "not-found")
        assert code(processor.match(order, customer)) == (403, "not-permitted")

    def test_a_broker_learns_nothing_by_the_delay_of_a_refusal(self, processor: Processor) -> None:
        broker = processor.user(Role.BROKER)

        def seconds(order_id: str) -> float:
            started = time.monotonic()
            assert code(processor.match(order_id, broker)) == (404, "not-found")
            return time.monotonic() - started

        assert abs(seconds(processor.resting()) - seconds(new_id())) < 1.0

    def test_a_repeat_answers_the_same_trade_as_it_is_now(self, processor: Processor, admin: int) -> None:
        order, key = processor.resting(), new_id()
        first = processor.match(order, admin, key=key, size="4")
        processor.tell(processor.settled(first.json()["trades"][0]["id"]))
        again = processor.match(order, admin, key=key, size="4")
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
        assert again.json()["trades"][0]["id"] == first.json()["trades"][0]["id"]
        assert again.json()["trades"][0]["status"] == "SETTLED"
        assert code(processor.match(order, admin, key=key, size="5")) == (422, "idempotency-key-reused")
        assert sizes(processor, order) == [4]

    def test_a_refusal_is_not_kept_under_its_key(self, processor: Processor, admin: int) -> None:
        order, key = processor.resting(), new_id()
        assert processor.match(order, admin, key=key, size="11").status_code == 422
        assert processor.match(order, admin, key=key, size="10").status_code == 202

    def test_needs_a_key(self, processor: Processor, admin: int) -> None:
        answer = processor.request("POST", f"/api/orders/{processor.resting()}/match", admin, json={})
        assert code(answer) == (400, "idempotency-key-missing")

    def test_two_at_once_and_exactly_one_wins(self, processor: Processor, admin: int) -> None:
        for _ in range(5):
            order = processor.resting()
            answers = processor.together(*[lambda order=order: processor.match(order, admin)] * 4)
            assert Counter(map(code, answers)) == {(202, ""): 1, (409, "order-not-open"): 3}
            assert sizes(processor, order) == [10]

    def test_with_one_key_at_once_there_is_one_trade(self, processor: Processor, admin: int) -> None:
        order, key = processor.resting(), new_id()
        answers = processor.together(*[lambda: processor.match(order, admin, key=key, size="4")] * 4)
        assert {code(answer) for answer in answers} <= {(202, ""), (409, "idempotency-key-in-use")}
        assert sizes(processor, order) == [4]

    def test_against_a_cancel_exactly_one_comes_first(self, processor: Processor, admin: int) -> None:
        """Matched first: the cancel waits for the trade. Canceled first: no trade."""
        for _ in range(10):
            order = processor.resting()
            answer, _ = processor.together(
                lambda order=order: processor.match(order, admin), lambda order=order: processor.tell(cancel(order))
            )
            if answer.status_code == 202:
                assert (processor.state(order), sizes(processor, order)) == ("CLOSING", [10])
                assert "ReleaseReservation" not in processor.said(order)
            else:
                assert code(answer) == (409, "order-not-open")
                assert (processor.state(order), sizes(processor, order)) == ("RELEASING", [])


class TestCross:
    def cross(self, processor: Processor, admin: int, buy: str, sell: str, **body: str) -> Any:
        return processor.post(CROSSES, admin, {"buy_order_id": buy, "sell_order_id": sell, **body})

    def test_trades_the_smaller_remainder_at_the_first_one_s_limit(self, processor: Processor, admin: int) -> None:
        sell = processor.resting("SELL", "9.50", "4")
        buy = processor.resting("BUY", "10", "10")
        [trade] = self.cross(processor, admin, buy, sell).json()["trades"]
        assert (trade["size"], trade["price"]) == ("4", "9.5")
        assert (trade["buy_order_id"], trade["sell_order_id"]) == (buy, sell)

    def test_a_price_between_the_limits_and_a_part(self, processor: Processor, admin: int) -> None:
        buy, sell = processor.resting("BUY", "10"), processor.resting("SELL", "9")
        [trade] = self.cross(processor, admin, buy, sell, price="9.25", size="1").json()["trades"]
        assert (trade["size"], trade["price"]) == ("1", "9.25")

    def test_refusals(self, processor: Processor, admin: int) -> None:
        buy, sell = processor.resting("BUY", "10", "5"), processor.resting("SELL", "9", "8")
        for price in ("10.01", "8.99"):
            assert code(self.cross(processor, admin, buy, sell, price=price)) == (422, "prices-do-not-cross")
        assert code(self.cross(processor, admin, buy, sell, size="5.5")) == (422, "size-exceeds-remainder")
        assert code(self.cross(processor, admin, sell, buy)) == (422, "validation-error")
        dear = processor.resting("SELL", "10.01")
        assert code(self.cross(processor, admin, buy, dear)) == (422, "prices-do-not-cross")
        other = processor.resting("SELL", "9", asset_name="GOOGL")
        assert code(self.cross(processor, admin, buy, other)) == (422, "validation-error")
        unknown = self.cross(processor, admin, buy, new_id())
        assert (code(unknown), unknown.json()["errors"][0]["pointer"]) == ((422, "validation-error"), "/sell_order_id")
        processor.tell(cancel(sell))
        assert code(self.cross(processor, admin, buy, sell)) == (409, "order-not-open")
        assert processor.trades(buy) == []
        assert processor.entry(buy) == (5, 0, 0, True)

    def test_nobody_trades_with_himself(self, processor: Processor, admin: int) -> None:
        buy = processor.resting("BUY", "10", beneficial_owner_id=5)
        sell = processor.resting("SELL", "10", beneficial_owner_id=5)
        assert code(self.cross(processor, admin, buy, sell)) == (422, "self-trade")

    def test_a_repeat_makes_no_second_trade(self, processor: Processor, admin: int) -> None:
        buy, sell, key = processor.resting("BUY"), processor.resting("SELL"), new_id()
        body = {"buy_order_id": buy, "sell_order_id": sell, "size": "3"}
        first, again = (processor.post(CROSSES, admin, body, key=key).json() for _ in range(2))
        assert first == again
        assert sizes(processor, buy) == [3]

    def test_one_seller_and_many_buyers_at_once(self, processor: Processor, admin: int) -> None:
        sell = processor.resting("SELL", "10", "10")
        buys = [processor.resting("BUY", "10", "4") for _ in range(4)]
        answers = processor.together(
            *(lambda buy=buy: self.cross(processor, admin, buy, sell, size="4") for buy in buys)
        )
        assert Counter(map(code, answers)) == {(202, ""): 2, (422, "size-exceeds-remainder"): 2}
        assert processor.entry(sell) == (2, 8, 0, True)


_RESTING = """
    INSERT INTO matching_queue (id, order_id, customer_id, beneficial_owner_id, customer_tier, priority, asset_name, quote_asset,
                                order_side, price, size, remaining_size, joined_seq, created_at)
    SELECT id, id, n, n, 'STANDARD', 1, %(asset_name)s, 'TRY', side, CASE side WHEN 'BUY' THEN 5 ELSE 15 END, 1, 1,
           nextval('matching_queue_seq'), brokage_now()
      FROM (SELECT n, uuidv7() AS id, CASE n %% 2 WHEN 0 THEN 'BUY' ELSE 'SELL' END AS side
              FROM generate_series(1, %(orders)s) AS n) AS resting
"""


def _rows_read(unit: UnitOfWork) -> int:
    """Rows of the queue that this transaction has read so far."""
    row = unit.connection.execute(
        "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read AS read FROM pg_stat_xact_user_tables"
        " WHERE relname = 'matching_queue'"
    ).fetchone()
    assert row is not None
    return int(row["read"])


class TestRun:
    def test_sweeps_the_queue_of_one_instrument_in_the_policy_s_order(self, processor: Processor, admin: int) -> None:
        late_vip = processor.resting("BUY", "10", "5", tier_priority=3)
        vip = processor.resting("BUY", "10", "5", tier_priority=1)
        low = processor.resting("BUY", "8", "5")
        sell = processor.resting("SELL", "9", "7")
        other = [processor.resting(side, "9", asset_name="GOOGL") for side in ("BUY", "SELL")]
        answer = processor.post(RUN, admin, {"asset_name": "AAPL"})
        assert (answer.status_code, answer.json()["more"]) == (202, False)
        trades = [(t["buy_order_id"], t["size"], t["price"]) for t in answer.json()["trades"]]
        assert trades == [(vip, "5", "10"), (late_vip, "2", "10")]
        assert processor.entry(low) == (5, 0, 0, True) and processor.entry(sell) == (0, 7, 0, False)
        assert all(processor.trades(order) == [] for order in other)

    def test_without_a_name_it_sweeps_every_instrument(self, processor: Processor, admin: int) -> None:
        for name in ("AAPL", "GOOGL"):
            for side in ("BUY", "SELL"):
                processor.resting(side, asset_name=name)
        answer = processor.post(RUN, admin)
        assert Counter(t["asset_name"] for t in answer.json()["trades"]) == {"AAPL": 1, "GOOGL": 1}

    def test_an_empty_or_uncrossed_book_gives_nothing(self, processor: Processor, admin: int) -> None:
        assert processor.post(RUN, admin).json() == {"trades": [], "more": False}
        processor.resting("BUY", "9")
        processor.resting("SELL", "10")
        assert processor.post(RUN, admin).json() == {"trades": [], "more": False}

    def test_what_rests_is_not_read(self, processor: Processor, admin: int) -> None:
        name = f"DEEP{admin}"
        deals = [processor.resting(side, asset_name=name) for side in ("BUY", "SELL")]
        found: list[list[str]] = []

        def sweep(unit: UnitOfWork) -> int:
            unit.connection.execute("SET LOCAL enable_seqscan = off")
            unit.connection.execute(_RESTING, {"asset_name": name, "orders": 3_000})
            before = _rows_read(unit)
            assert name in repository.crossed_instruments(unit.connection)
            rows = repository.load_crossing(unit.connection, name, policy="tier-price-time", limit=1_000)
            found.append([row["id"] for row in rows if row["price"] == 10])
            read = _rows_read(unit) - before
            unit.connection.execute("DELETE FROM matching_queue WHERE asset_name = %s AND price <> 10", (name,))
            return read

        # Both orders that cross, and some fifty of the best prices a side, each a few times.
        assert processor.database.run(sweep) < 500
        assert sorted(found[0]) == sorted(deals)

    def test_orders_of_one_owner_are_passed_over(self, processor: Processor, admin: int) -> None:
        processor.resting("BUY", "10", beneficial_owner_id=5)
        processor.resting("SELL", "9", beneficial_owner_id=5)
        other = processor.resting("SELL", "10", beneficial_owner_id=6)
        answer = processor.post(RUN, admin).json()
        assert [trade["sell_order_id"] for trade in answer["trades"]] == [other]
        assert answer["more"] is False

    def test_more_says_that_crossing_orders_are_left(
        self, processor: Processor, admin: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(matching, "RUN_TRADES_MAX", 3)
        for _ in range(4):
            processor.resting("BUY", "10", "1")
            processor.resting("SELL", "10", "1")
        first = processor.post(RUN, admin).json()
        assert (len(first["trades"]), first["more"]) == (3, True)
        second = processor.post(RUN, admin).json()
        assert (len(second["trades"]), second["more"]) == (1, False)

    def test_a_repeat_makes_no_trades_and_speaks_of_the_same_instrument(self, processor: Processor, admin: int) -> None:
        for name in ("AAPL", "GOOGL"):
            for side in ("BUY", "SELL"):
                processor.resting(side, asset_name=name)
        key = new_id()
        first, again = (processor.post(RUN, admin, {"asset_name": "AAPL"}, key=key) for _ in range(2))
        assert first.json() == again.json()
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_runs_at_once_trade_everything_exactly_once(self, processor: Processor, admin: int) -> None:
        orders = [processor.resting(side, "10", "3") for side in ("BUY", "SELL") * 10]
        answers = processor.together(*[lambda: processor.post(RUN, admin)] * 3)
        assert sum(len(answer.json()["trades"]) for answer in answers) == 10
        assert {processor.entry(order) for order in orders} == {(0, 3, 0, False)}


class TestQueue:
    def test_shows_the_book_in_the_order_orders_joined(self, processor: Processor, admin: int) -> None:
        orders = [processor.resting(price=price) for price in ("10", "11", "9")]
        processor.matched(orders[1], admin)
        answer = processor.request("GET", "/api/matching/queue?asset_name=AAPL&limit=1", admin).json()
        assert [row["order_id"] for row in answer["data"]] == orders[:1]
        more = processor.request("GET", f"/api/matching/queue?cursor={answer['next_cursor']}", admin).json()
        assert [row["order_id"] for row in more["data"]] == orders[2:]


class TestTrades:
    def test_a_customer_sees_his_own_and_not_who_was_on_the_other_side(self, processor: Processor, admin: int) -> None:
        buyer, seller = processor.user(Role.CUSTOMER), processor.user(Role.CUSTOMER)
        buy = processor.resting("BUY", customer_id=buyer)
        sell = processor.resting("SELL", customer_id=seller)
        processor.post(RUN, admin)
        [mine] = processor.request("GET", "/api/trades", buyer).json()["data"]
        assert (mine["buy_order_id"], mine["sell_order_id"]) == (buy, None)
        [all_of_it] = processor.request("GET", f"/api/trades?order_id={buy}", admin).json()["data"]
        assert (all_of_it["buy_order_id"], all_of_it["sell_order_id"]) == (buy, sell)
        assert processor.request("GET", f"/api/trades?order_id={sell}", buyer).json()["data"] != []
        assert processor.request("GET", "/api/trades", processor.user(Role.CUSTOMER)).json()["data"] == []
