"""The processor's commands against a real database: works, refused, repeated, concurrent."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from asset_service.service import verification
from asset_service.tasks import handle
from shared.contracts.customers import CustomerDeactivated
from shared.contracts.message import Message
from shared.ids import new_id
from shared.testing.statements import statements_of
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.worlds import release, reserve, settle


def types(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["type"] for answer in answers]


class TestReserveAsset:
    def test_blocks_cash_and_says_so_to_processor_and_auditor(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        command = reserve(order, customer, "BUY", "2", "100", fee_rate="0.001")
        api.handle(command)
        assert api.balance(customer, "TRY") == (1000, Decimal("799.8"))
        [answer] = api.answers(order)
        assert (answer["type"], answer["payload"]["amount"]) == ("AssetReserved", "200.2")
        assert answer["causation_id"] == command.event_id
        assert answer["customer_id"] == customer
        assert types(api.answers(order, reader="auditor")) == ["AssetReserved"]
        [row] = api.query(
            "SELECT status, amount, remaining, asset_id IS NOT NULL FROM asset_reservations WHERE order_id = %s", order
        )
        assert row == ("ACTIVE", Decimal("200.2"), Decimal("200.2"), True)

    def test_refusals_are_answers_and_leave_balances_alone(self, api: Api) -> None:
        customer, inactive = api.customer(TRY="100"), api.customer(TRY="1000")
        api.deactivate(inactive)
        orders = [new_id() for _ in range(4)]
        api.handle(
            reserve(orders[0], customer, asset_name="NOPE"),
            reserve(orders[1], customer, asset_name="HLT"),
            reserve(orders[2], inactive),
            reserve(orders[3], customer, "BUY", "2", "100"),
        )
        reasons = {answer["aggregate_id"]: answer["payload"]["reason"] for answer in api.answers(*orders)}
        assert [reasons[order] for order in orders] == [
            "INSTRUMENT_UNKNOWN",
            "INSTRUMENT_HALTED",
            "CUSTOMER_INACTIVE",
            "INSUFFICIENT_BALANCE",
        ]
        assert api.balance(customer, "TRY") == (100, 100)

    def test_deactivated_in_the_same_batch_reserves_nothing(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(reserve(order, customer), api.state(CustomerDeactivated, customer, version=2, active=False))
        assert types(api.answers(order)) == ["AssetReservationFailed"]

    def test_repeated_answers_the_processor_again_but_not_the_auditor(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(reserve(order, customer))
        api.handle(reserve(order, customer))
        first, again = api.answers(order)
        assert (first["type"], again["type"]) == ("AssetReserved", "AssetReserved")
        assert first["payload"]["amount"] == again["payload"]["amount"]
        assert len(api.answers(order, reader="auditor")) == 1
        assert api.balance(customer, "TRY") == (1000, 800)

    def test_two_hundred_at_once_against_cash_for_a_hundred(self, api: Api) -> None:
        customer = api.customer(TRY="10000")
        orders = [new_id() for _ in range(200)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda order: api.handle(reserve(order, customer, "BUY", "1", "100")), orders))
        assert Counter(types(api.answers(*orders))) == {"AssetReserved": 100, "AssetReservationFailed": 100}
        assert api.balance(customer, "TRY") == (10000, 0)
        [(blocked,)] = api.query("SELECT sum(remaining) FROM asset_reservations WHERE customer_id = %s", customer)
        assert blocked == 10000

    def test_the_same_order_at_once_from_many_is_reserved_once(self, api: Api) -> None:
        customer, order = api.customer(TRY="10000"), new_id()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: api.handle(reserve(order, customer, "BUY", "1", "100")), range(16)))
        assert Counter(types(api.answers(order))) == {"AssetReserved": 16}
        assert api.balance(customer, "TRY") == (10000, 9900)

    def test_a_batch_costs_the_same_number_of_statements_whatever_its_size(self, api: Api) -> None:
        def statements(orders: int) -> int:
            customers = [api.customer(TRY="1000", AAPL="10") for _ in range(2)]
            messages = []
            for _ in range(orders):
                buy, sell, other = new_id(), new_id(), new_id()
                messages += [
                    reserve(buy, customers[0], "BUY", "0.1", "10"),
                    reserve(sell, customers[1], "SELL", "0.1", "10"),
                    settle(new_id(), (buy, customers[0]), (sell, customers[1]), "0.1", "10"),
                    release(other, customers[0]),
                ]
            executed: list[str] = []

            def work(uow: Any) -> None:
                with statements_of(uow.connection, executed):
                    handle(uow, messages)

            api.handlers.run(work)
            return len(executed)

        assert statements(1) == statements(40) <= 9


class TestReleaseReservation:
    def test_gives_back_and_repeats_its_answer(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(reserve(order, customer))
        api.handle(release(order, customer, "CANCELED"))
        api.handle(release(order, customer, "EXPIRED"))
        amounts = [(answer["type"], answer["payload"].get("amount")) for answer in api.answers(order)]
        assert amounts == [("AssetReserved", "200"), ("AssetReleased", "200"), ("AssetReleased", "200")]
        assert api.balance(customer, "TRY") == (1000, 1000)

    def test_before_the_reserve_leaves_a_tombstone(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(release(order, customer))
        api.handle(reserve(order, customer))
        released, refused = api.answers(order)
        assert (released["type"], refused["payload"]["reason"]) == ("AssetReleased", "RELEASED_BEFORE")
        assert api.balance(customer, "TRY") == (1000, 1000)

    def test_racing_a_settlement_exactly_one_gets_the_amount(self, api: Api) -> None:
        for _ in range(10):
            buyer, seller = api.customer(TRY="200"), api.customer(AAPL="2")
            buy, sell, trade = new_id(), new_id(), new_id()
            api.handle(reserve(buy, buyer), reserve(sell, seller, "SELL"))
            commands = [release(buy, buyer), settle(trade, (buy, buyer), (sell, seller))]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(api.handle, commands))
            [settled] = api.answers(trade)
            released = api.answers(buy)[-1]["payload"].get("amount", "0")
            if settled["type"] == "TradeSettled":
                assert released == "0"
                assert api.balance(buyer, "TRY") == (0, 0)
            else:
                assert released == "200"
                assert api.balance(buyer, "TRY") == (200, 200)


class TestSettleTrade:
    def test_moves_every_leg_and_writes_a_ledger_that_adds_up(self, api: Api) -> None:
        buyer, seller = api.customer(TRY="1000"), api.customer(AAPL="10")
        buy, sell, trade = new_id(), new_id(), new_id()
        api.handle(
            reserve(buy, buyer, "BUY", "4", "100", fee_rate="0.01"),
            reserve(sell, seller, "SELL", "2", "90", fee_rate="0.01"),
        )
        api.handle(settle(trade, (buy, buyer), (sell, seller), "2", "90"))
        [answer] = api.answers(trade)
        payload = answer["payload"]
        assert (payload["notional"], payload["buyer_fee"], payload["seller_fee"]) == ("180", "1.8", "1.8")
        assert api.balance(buyer, "TRY") == (Decimal("818.2"), Decimal("616.2"))
        assert api.balance(buyer, "AAPL") == (2, 2)
        assert api.balance(seller, "TRY") == (Decimal("178.2"), Decimal("178.2"))
        assert api.balance(seller, "AAPL") == (8, 8)
        entries = api.query(
            "SELECT asset_name, sum(amount), count(*) FROM ledger_entries WHERE tx_ref = %s GROUP BY 1",
            f"trade:{trade}",
        )
        assert sorted(entries) == [("AAPL", 0, 2), ("TRY", 0, 3)]
        assert verification.verify_ledger(api.resources.database).valid

    def test_refused_moves_nothing_and_repeats_its_answer(self, api: Api) -> None:
        buyer, trade, buy = api.customer(TRY="1000"), new_id(), new_id()
        api.handle(settle(trade, (buy, buyer), None))
        api.handle(reserve(buy, buyer))
        api.handle(settle(trade, (buy, buyer), None))
        first, again = api.answers(trade)
        assert first["payload"] == again["payload"]
        assert first["payload"]["reason"] == "RESERVATION_MISSING"
        assert api.balance(buyer, "TRY") == (1000, 800)

    def test_the_same_trade_at_once_from_many_is_settled_once(self, api: Api) -> None:
        buyer, buy, trade = api.customer(TRY="1000"), new_id(), new_id()
        api.handle(reserve(buy, buyer, "BUY", "4", "100"))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: api.handle(settle(trade, (buy, buyer), None, "1")), range(16)))
        answers = api.answers(trade)
        assert Counter(types(answers)) == {"TradeSettled": 16}
        assert len({str(answer["payload"]) for answer in answers}) == 1
        assert api.balance(buyer, "TRY") == (900, 600)
        assert len(api.answers(trade, reader="auditor")) == 1

    def test_updates_stay_out_of_the_indexes(self, api: Api) -> None:
        """No index has a column that reserving or settling changes: Postgres counts such updates as HOT."""
        buyer, seller = api.customer(TRY="100000"), api.customer(AAPL="100")

        def run(*messages: Message[Any]) -> None:
            def work(uow: Any) -> None:
                uow.connection.execute("SELECT pg_stat_force_next_flush()")
                handle(uow, messages)

            api.handlers.run(work)

        run(reserve(new_id(), buyer))
        [(before, hot_before)] = api.query(_UPDATES)
        for _ in range(20):
            buy, sell = new_id(), new_id()
            run(reserve(buy, buyer, "BUY", "1", "10"), reserve(sell, seller, "SELL", "1", "10"))
            run(settle(new_id(), (buy, buyer), (sell, seller), "1", "10"))
        [(after, hot_after)] = api.query(_UPDATES)
        assert after - before >= 100  # two balances a reserve, four a settlement, and two that came into being
        assert hot_after - hot_before >= 0.8 * (after - before)


_UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'assets'"
