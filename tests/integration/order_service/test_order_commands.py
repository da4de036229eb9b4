"""What the processor commands, in batches; cancelations; and both at once."""

from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from order_service.errors import InvalidFill, UnknownOrder
from order_service.service.commands import cancel_orders_of_inactive
from shared.auth.permissions import Role
from shared.contracts.customers import CustomerDeactivated, CustomerUpdated
from shared.contracts.orders import (
    ConfirmOrder,
    MarkOrderCanceled,
    MarkOrderExpired,
    MarkOrderMatched,
    MarkOrderPartiallyMatched,
    RejectOrder,
)
from shared.ids import new_id
from shared.statemachine import InvalidTransition
from tests.integration.order_service.conftest import Api, filled, message_of


def statuses(api: Api, order: dict[str, Any], user: int) -> list[str]:
    return [row["status"] for row in api.history(order["id"], user)]


class TestCommands:
    def test_confirmation_writes_two_rows_of_history(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        assert (order["status"], order["version"]) == ("ORDER_CONFIRMED", 3)
        assert statuses(api, order, customer) == ["CREATED", "PENDING_RESERVATION", "ASSET_RESERVED", "ORDER_CONFIRMED"]
        said = api.messages(order["id"])[-1]
        assert said["type"] == "OrderConfirmed"
        assert said["payload"]["before"] == {"status": "PENDING_RESERVATION"}
        assert said["payload"]["after"] == {"status": "ORDER_CONFIRMED"}
        assert api.history(order["id"], customer)[-1]["event_id"] == said["event_id"]

    def test_rejection_has_its_reason(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        api.command(order, RejectOrder(rejection_reason="INSUFFICIENT_BALANCE"))
        order = api.order(order["id"], customer)
        assert (order["status"], order["final_status"]) == ("REJECTED", "REJECTED")
        assert order["rejection_reason"] == "INSUFFICIENT_BALANCE"
        assert api.history(order["id"], customer)[-1]["detail"] == {"rejection_reason": "INSUFFICIENT_BALANCE"}

    def test_fills_grow_to_matched(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        api.command(order, filled(MarkOrderPartiallyMatched, "4"))
        partial = api.order(order["id"], customer)
        assert (partial["status"], partial["filled_size"], partial["remaining_size"]) == ("PARTIALLY_MATCHED", "4", "6")
        assert partial["average_price"] == "12.5"
        api.command(order, filled(MarkOrderMatched, "10"))
        whole = api.order(order["id"], customer)
        assert (whole["status"], whole["filled_size"], whole["remaining_size"]) == ("MATCHED", "10", "0")
        assert api.says(order["id"], "notifier") == ["OrderConfirmed", "OrderPartiallyMatched", "OrderMatched"]
        assert api.says(order["id"]) == ["OrderCreated", "OrderConfirmed", "OrderMatched"]

    def test_a_whole_life_in_one_batch(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        api.command(
            order,
            ConfirmOrder(),
            filled(MarkOrderPartiallyMatched, "4"),
            filled(MarkOrderPartiallyMatched, "4"),
            filled(MarkOrderMatched, "10"),
            filled(MarkOrderPartiallyMatched, "7"),
        )
        assert statuses(api, order, customer)[2:] == [
            "ASSET_RESERVED",
            "ORDER_CONFIRMED",
            "PARTIALLY_MATCHED",
            "MATCHED",
        ]

    def test_late_totals_change_nothing(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        api.command(order, filled(MarkOrderPartiallyMatched, "6"))
        before = api.order(order["id"], customer)
        api.command(order, filled(MarkOrderPartiallyMatched, "4"), filled(MarkOrderPartiallyMatched, "6"))
        assert api.order(order["id"], customer) == before

    @pytest.mark.parametrize(
        ("commands", "answer"),
        [
            ([ConfirmOrder()], "OrderConfirmed"),
            ([RejectOrder(rejection_reason="INSUFFICIENT_BALANCE")], "OrderRejected"),
            ([ConfirmOrder(), filled(MarkOrderMatched, "10")], "OrderMatched"),
            ([ConfirmOrder(), MarkOrderExpired()], "OrderExpired"),
        ],
    )
    def test_repeated_command_is_answered_to_the_processor_alone(
        self, api: Api, customer: int, commands: list[Any], answer: str
    ) -> None:
        order = api.placed(customer)
        api.command(order, *commands)
        stored = api.order(order["id"], customer)
        heard = api.says(order["id"], "notifier"), api.says(order["id"], "auditor")
        api.command(order, commands[-1])
        assert api.says(order["id"])[-2:] == [answer, answer]
        assert (api.says(order["id"], "notifier"), api.says(order["id"], "auditor")) == heard
        assert api.order(order["id"], customer) == stored

    def test_statements_do_not_grow_with_the_batch(
        self, api: Api, customer: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orders = [api.placed(customer) for _ in range(30)]
        executed: list[Any] = []
        execute = psycopg.Connection.execute

        def counted(self: Any, *args: Any, **options: Any) -> Any:
            executed.append(args[0])
            return execute(self, *args, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", counted)
        api.handle([message_of(ConfirmOrder(), order["id"]) for order in orders])
        own = [statement for statement in executed if "outbox" not in str(statement) and "clock" not in str(statement)]
        own = [statement for statement in own if "advisory" not in str(statement)]
        assert len(own) <= 6

    def test_unknown_order(self, api: Api) -> None:
        with pytest.raises(UnknownOrder):
            api.handle([message_of(ConfirmOrder(), new_id())])

    def test_impossible_command(self, api: Api, customer: int) -> None:
        with pytest.raises(InvalidTransition):
            api.command(api.placed(customer), MarkOrderCanceled())

    @pytest.mark.parametrize(
        ("command", "size"),
        [(MarkOrderMatched, "9"), (MarkOrderPartiallyMatched, "10"), (MarkOrderPartiallyMatched, "11")],
    )
    def test_fill_that_contradicts_the_size(self, api: Api, customer: int, command: type[Any], size: str) -> None:
        with pytest.raises(InvalidFill):
            api.command(api.confirmed(customer), filled(command, size))

    def test_history_cannot_be_changed(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api.count("DELETE FROM order_history WHERE order_id = %s RETURNING seq", order["id"])


class TestCancelOrder:
    def test_asks_for_it(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer)
        assert (answer.status_code, answer.json()["status"]) == (202, "PENDING_CANCEL")
        assert answer.json() == api.order(order["id"], customer)
        assert api.says(order["id"])[-1] == "OrderCancelRequested"

    def test_repeated_changes_nothing(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        answers = [api.request("DELETE", f"/api/orders/{order['id']}", customer) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        assert api.says(order["id"]).count("OrderCancelRequested") == 1

    def test_canceled_already(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        api.request("DELETE", f"/api/orders/{order['id']}", customer)
        api.command(order, filled(MarkOrderPartiallyMatched, "4"), MarkOrderCanceled())
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer)
        assert (answer.status_code, answer.json()["status"], answer.json()["filled_size"]) == (200, "CANCELED", "4")

    @pytest.mark.parametrize(
        "commands",
        [[RejectOrder(rejection_reason="INSUFFICIENT_BALANCE")], [ConfirmOrder(), filled(MarkOrderMatched, "10")]],
    )
    def test_final_already(self, api: Api, customer: int, commands: list[Any]) -> None:
        order = api.placed(customer)
        api.command(order, *commands)
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer)
        assert (answer.status_code, answer.json()["code"]) == (409, "order-already-final")

    def test_confirmation_that_crossed_it_is_ignored(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        api.request("DELETE", f"/api/orders/{order['id']}", customer)
        api.command(order, ConfirmOrder())
        assert api.order(order["id"], customer)["status"] == "PENDING_CANCEL"
        assert api.says(order["id"]) == ["OrderCreated", "OrderCancelRequested"]

    def test_the_last_fill_may_win(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        api.request("DELETE", f"/api/orders/{order['id']}", customer)
        api.command(order, filled(MarkOrderPartiallyMatched, "4"))
        row = api.order(order["id"], customer)
        assert (row["status"], row["filled_size"]) == ("PENDING_CANCEL", "4")
        api.command(order, filled(MarkOrderMatched, "10"))
        assert api.order(order["id"], customer)["status"] == "MATCHED"

    def test_not_his(self, api: Api, customer: int, broker: int) -> None:
        order = api.confirmed(customer)
        for stranger in (api.customer(), broker):
            assert api.request("DELETE", f"/api/orders/{order['id']}", stranger).status_code == 404

    def test_while_a_fill_arrives(self, api: Api, customer: int) -> None:
        for _ in range(5):
            order = api.confirmed(customer)

            def work(number: int, order: dict[str, Any] = order) -> Any:
                if number % 2:
                    return api.command(order, filled(MarkOrderPartiallyMatched, str(number)))
                return api.request("DELETE", f"/api/orders/{order['id']}", customer).status_code

            api.together(8, work)
            row = api.order(order["id"], customer)
            assert (row["status"], row["filled_size"]) == ("PENDING_CANCEL", "7")
            rows = api.history(order["id"], customer)
            assert [entry["seq"] for entry in rows] == list(range(1, row["version"] + 2))
            assert api.says(order["id"]).count("OrderCancelRequested") == 1


class TestDeactivatedCustomer:
    def leave(self, api: Api, customer: int, version: int = 2) -> Any:
        state = msgspec.structs.asdict(api.states[customer])
        return message_of(CustomerDeactivated(**{**state, "active": False}), str(customer), version=version)

    def test_open_orders_are_canceled(self, api: Api, customer: int) -> None:
        resting, fresh, done = api.confirmed(customer), api.placed(customer), api.placed(customer)
        api.command(done, RejectOrder(rejection_reason="INSUFFICIENT_BALANCE"))
        api.handle([self.leave(api, customer)])
        api.handle([self.leave(api, customer)])
        admin = api.customer(role=Role.ADMIN)
        found = [api.order(order["id"], admin)["status"] for order in (resting, fresh, done)]
        assert found == ["PENDING_CANCEL", "PENDING_CANCEL", "REJECTED"]
        assert api.says(resting["id"]).count("OrderCancelRequested") == 1

    def test_together_with_a_command(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        api.handle([message_of(ConfirmOrder(), order["id"]), self.leave(api, customer)])
        admin = api.customer(role=Role.ADMIN)
        assert statuses(api, order, admin)[-2:] == ["ORDER_CONFIRMED", "PENDING_CANCEL"]

    def test_late_event_of_somebody_who_is_back(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        state = msgspec.structs.asdict(api.states[customer])
        api.handle([message_of(CustomerUpdated(**state), str(customer), version=3)])
        api.handle([self.leave(api, customer)])
        assert api.order(order["id"], customer)["status"] == "ORDER_CONFIRMED"

    def test_sweep_finds_what_was_accepted_meanwhile(self, api: Api, customer: int) -> None:
        api.handle([self.leave(api, customer)])
        customer_order = new_order_of(api, customer)
        assert api.resources.database.run(cancel_orders_of_inactive) >= 1
        assert api.order(customer_order, api.customer(role=Role.ADMIN))["status"] == "PENDING_CANCEL"
        assert api.resources.database.run(cancel_orders_of_inactive) == 0


def new_order_of(api: Api, customer: int) -> str:
    """An order accepted by a process that still believes the customer active."""
    order_id = new_id()

    def insert(uow: Any) -> None:
        uow.connection.execute(
            "INSERT INTO orders (id, customer_id, beneficial_owner_id, placed_by, placed_by_role, asset_name,"
            " quote_asset, quote_scale, order_side, order_type, time_in_force, size, price, tier, fee_rate, fee_minimum)"
            " VALUES (%s, %s, %s, %s, 'CUSTOMER', 'AAPL', 'TRY', 8, 'BUY', 'LIMIT', 'GTC', %s, 1, 'VIP', 0, 0)",
            [order_id, customer, customer, customer, Decimal(1)],
        )

    api.resources.database.run(insert)
    return order_id
