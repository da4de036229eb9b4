"""Orders whose time is over: off the book under the instrument's lock, released once, whoever else wanted them."""

from collections import Counter

import psycopg
import pytest

from processor.service import expiry
from shared.contracts.orders import OrderExpired
from tests.integration.processor.conftest import Processor, about, cancel, released

HOUR = 3600.0


class TestExpiry:
    def test_waits_for_the_time_and_comes_once(self, processor: Processor) -> None:
        order, other = processor.ending(HOUR), processor.resting()
        processor.pass_time(HOUR - 60)
        assert processor.expire() == 0
        processor.pass_time(61)
        assert [processor.expire(), processor.expire()] == [1, 0]
        assert (processor.state(order), processor.entry(order)) == ("RELEASING", (10, 0, 0, False))
        assert processor.state(other) == "RESTING"
        assert processor.said(order)[2:] == ["ReleaseReservation"]

    def test_ends_after_the_release(self, processor: Processor) -> None:
        order = processor.ending()
        processor.pass_time(HOUR + 1)
        processor.expire()
        processor.tell(released(order, "EXPIRED"))
        assert processor.state(order) == "EXPIRING"
        processor.tell(about(OrderExpired, order))
        assert (processor.state(order), processor.entry(order)) == ("EXPIRED", None)
        assert sorted(processor.said(order)[2:]) == ["MarkOrderExpired", "ReleaseReservation"]

    def test_is_nobody_s_doing(self, processor: Processor) -> None:
        order = processor.ending()
        processor.pass_time(HOUR + 1)
        processor.expire()
        [(message,)] = processor.query(
            "SELECT m FROM outbox_events, jsonb_array_elements(payload::jsonb) AS m"
            " WHERE m->>'aggregate_id' = %s AND m->>'type' = 'ReleaseReservation'",
            order,
        )
        assert message["payload"] == {"reason": "EXPIRED"}
        assert message.get("actor", {}).get("id") is None
        [(opening,)] = processor.query("SELECT payload FROM saga_instances WHERE saga_id = %s", order)
        assert message["correlation_id"] == opening["correlation_id"]
        assert message["customer_id"] == opening["customer_id"]

    def test_a_release_that_is_not_answered_is_asked_for_again_as_an_expiry(self, processor: Processor) -> None:
        order = processor.ending()
        processor.pass_time(HOUR + 1)
        processor.expire()
        processor.acknowledge()
        processor.pass_time(processor.settings.saga_answer_seconds + 1)
        assert processor.sweep() == 1
        reasons = processor.query(
            "SELECT m->'payload'->>'reason' FROM outbox_events, jsonb_array_elements(payload::jsonb) AS m"
            " WHERE m->>'aggregate_id' = %s AND m->>'type' = 'ReleaseReservation'",
            order,
        )
        assert reasons == [("EXPIRED",), ("EXPIRED",)]

    def test_takes_many_in_bounded_batches(self, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(expiry, "_AT_ONCE", 3)
        orders = [processor.ending(HOUR + number) for number in range(8)]
        processor.pass_time(HOUR + 60)
        monkeypatch.setattr(expiry, "_BATCHES_MAX", 2)
        assert [processor.expire(), processor.expire()] == [6, 2]
        assert {processor.state(order) for order in orders} == {"RELEASING"}


class TestWhileTradesSettle:
    def test_the_rest_is_released_after_the_last_fill(self, processor: Processor, admin: int) -> None:
        order = processor.ending()
        trades = [processor.matched(order, admin, size="3") for _ in range(2)]
        processor.pass_time(HOUR + 1)
        assert processor.expire() == 1
        assert (processor.state(order), processor.entry(order)) == ("LAPSING", (4, 6, 0, False))
        assert "ReleaseReservation" not in processor.said(order)
        processor.tell(processor.settled(trades[0]))
        assert processor.state(order) == "LAPSING"
        processor.tell(processor.settled(trades[1]))
        assert processor.state(order) == "RELEASING"
        processor.tell(released(order, "EXPIRED"))
        assert processor.state(order) == "EXPIRING"

    def test_a_bust_releases_everything(self, processor: Processor, admin: int) -> None:
        order = processor.ending()
        trade = processor.matched(order, admin, size="4")
        processor.pass_time(HOUR + 1)
        processor.expire()
        processor.tell(processor.failed(trade))
        assert (processor.state(order), processor.entry(order)) == ("RELEASING", (10, 0, 0, False))
        [(reason,)] = processor.query("SELECT reason FROM saga_instances WHERE saga_id = %s", order)
        assert reason == "EXPIRED"

    def test_a_full_order_is_left_to_its_trades(self, processor: Processor, admin: int) -> None:
        """It has no open part. Should its trade be busted, it is back on the book, and its time is over."""
        full, busted = processor.ending(), processor.ending()
        trades = [processor.matched(order, admin) for order in (full, busted)]
        processor.pass_time(HOUR + 1)
        assert processor.expire() == 0
        processor.tell(processor.settled(trades[0]))
        assert processor.state(full) == "FINISHING"
        processor.tell(processor.failed(trades[1]))
        assert processor.state(busted) == "RESTING"
        assert processor.expire() == 1
        assert processor.state(busted) == "RELEASING"

    def test_a_cancel_that_comes_behind_it_is_too_late(self, processor: Processor, admin: int) -> None:
        lapsing, releasing = processor.ending(), processor.ending()
        trade = processor.matched(lapsing, admin, size="1")
        processor.pass_time(HOUR + 1)
        processor.expire()
        processor.tell(cancel(lapsing), cancel(releasing))
        processor.tell(processor.settled(trade))
        for order in (lapsing, releasing):
            assert processor.said(order).count("ReleaseReservation") == 1
            processor.tell(released(order, "EXPIRED"))
            processor.tell(about(OrderExpired, order))
            assert processor.state(order) == "EXPIRED"


class TestAgainstOthers:
    def test_nothing_trades_after_its_time_even_before_the_sweep(self, processor: Processor, admin: int) -> None:
        buy, sell = processor.ending(side="BUY", price="10"), processor.resting("SELL", "10")
        processor.pass_time(HOUR + 1)
        run = processor.post("/api/matching/run", admin)
        assert (run.status_code, run.json()) == (202, {"trades": [], "more": False})
        assert processor.match(buy, admin).json()["code"] == "order-not-open"
        cross = processor.post("/api/matching/crosses", admin, {"buy_order_id": buy, "sell_order_id": sell})
        assert cross.json()["code"] == "order-not-open"
        assert processor.expire() == 1

    def test_a_sweep_passes_by_an_expired_best_price(self, processor: Processor, admin: int) -> None:
        processor.ending(side="BUY", price="99")
        alive, sell = processor.resting("BUY", "10"), processor.resting("SELL", "10")
        processor.pass_time(HOUR + 1)
        [trade] = processor.post("/api/matching/run", admin).json()["trades"]
        assert (trade["buy_order_id"], trade["sell_order_id"]) == (alive, sell)

    def test_a_match_just_before_and_the_sweep_share_the_order(self, processor: Processor, admin: int) -> None:
        """Whoever has the lock first decides: a trade and no expiry of its part, or an expiry and no trade."""
        outcomes: Counter[str] = Counter()
        for _ in range(10):
            order = processor.ending(HOUR)
            # Over by the database's clock; the match's own moment was before.
            with psycopg.connect(processor.url) as connection:
                connection.execute(
                    "UPDATE matching_queue SET expires_at = brokage_now() + '30 ms' WHERE id = %s", (order,)
                )
                connection.commit()
            answer, *_ = processor.together(
                lambda order=order: processor.match(order, admin), *[lambda: processor.expire()] * 2
            )
            while processor.entry(order) == (10, 0, 0, True):
                processor.expire()
            matched = answer.status_code == 202
            outcomes["matched" if matched else answer.json()["code"]] += 1
            assert processor.entry(order) == ((0, 10, 0, False) if matched else (10, 0, 0, False))
            assert ("ReleaseReservation" in processor.said(order)) is not matched
        assert set(outcomes) <= {"matched", "order-not-open"}

    def test_many_sweeps_at_once_release_each_order_once(self, processor: Processor) -> None:
        orders = [processor.ending() for _ in range(20)]
        processor.pass_time(HOUR + 1)
        assert sum(processor.together(*[processor.expire] * 3)) == 20
        assert {tuple(processor.said(order)[2:]) for order in orders} == {("ReleaseReservation",)}

    def test_against_a_cancel_there_is_one_release(self, processor: Processor) -> None:
        for _ in range(10):
            order = processor.ending()
            processor.pass_time(HOUR + 1)
            processor.together(processor.expire, lambda order=order: processor.tell(cancel(order)))
            assert processor.state(order) == "RELEASING"
            assert processor.said(order).count("ReleaseReservation") == 1

    def test_one_that_waits_for_a_person_waits_on_and_ends_when_it_is_let_go(
        self, processor: Processor, admin: int
    ) -> None:
        order = processor.ending()
        for _ in range(2):
            processor.tell(processor.failed(processor.matched(order, admin)))
        processor.pass_time(HOUR + 1)
        assert (processor.expire(), processor.state(order)) == (0, "NEEDS_HUMAN")
        processor.request("POST", f"/api/sagas/{order}/retry", admin)
        assert (processor.expire(), processor.state(order)) == (1, "RELEASING")
