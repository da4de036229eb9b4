"""Final orders in the archive: when they go there, and that nobody who asks for one has to know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from order_service.service.archiving import archive_due_orders, delete_old_months, keep_archive
from order_service.settings import Settings
from shared.auth.permissions import Role
from shared.contracts.orders import (
    ConfirmOrder,
    MarkOrderCanceled,
    MarkOrderExpired,
    MarkOrderMatched,
    MarkOrderPartiallyMatched,
    RejectOrder,
)
from shared.faults import InjectedFault, inject
from tests.integration.order_service.conftest import Api, filled, serving

DAY = timedelta(days=1)
REJECTED = [RejectOrder(rejection_reason="INSUFFICIENT_BALANCE")]
MATCHED = [ConfirmOrder(), filled(MarkOrderMatched, "10")]
EXPIRED = [ConfirmOrder(), filled(MarkOrderPartiallyMatched, "4"), MarkOrderExpired()]


@pytest.fixture(scope="module")
def api(servers: Any, fresh_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Over a database of these tests' own: they move its clock and archive all there is."""
    environment = {**servers.env, "BROKAGE_ORDERS_DATABASE_URL": fresh_database("order_service")}
    with serving(environment, tmp_path_factory.mktemp("keys")) as api:
        yield api


@pytest.fixture(autouse=True)
def clock(api: Api) -> Iterator[None]:
    """The next test finds today, and nothing that could be archived."""
    yield
    pass_time(api, 20_000 * DAY)
    while archive(api):
        pass
    with psycopg.connect(api.database_url) as connection:
        connection.execute("UPDATE clock_offset SET value = '0'")


def settings(api: Api, **values: Any) -> Settings:
    return Settings(orders_database_url=api.database_url, **values)


def archive(api: Api, **values: Any) -> int:
    """How many orders one turn of the archiver moves."""
    return archive_due_orders(api.resources.database, settings(api, **values))


def pass_time(api: Api, time: timedelta) -> None:
    with psycopg.connect(api.database_url) as connection:
        connection.execute("UPDATE clock_offset SET value = value + %s", [time])


def ended(api: Api, user: int, commands: list[Any], **terms: Any) -> dict[str, Any]:
    order = api.placed(user, **terms)
    api.command(order, *commands)
    return api.order(order["id"], user)


def canceled(api: Api, user: int, **terms: Any) -> dict[str, Any]:
    order = api.confirmed(user, **terms)
    api.request("DELETE", f"/api/orders/{order['id']}", user)
    api.command(order, MarkOrderCanceled())
    return api.order(order["id"], user)


def archived(api: Api, user: int, commands: list[Any], **terms: Any) -> dict[str, Any]:
    """An order that ended some time ago and is in the archive now, as it is read."""
    order = ended(api, user, commands, **terms)
    pass_time(api, 91 * DAY)
    archive(api)
    return api.order(order["id"], user)


def listed(api: Api, user: int, **query: Any) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    while True:
        answer = api.request("GET", "/api/orders", user, params=query)
        assert answer.status_code == 200, answer.text
        ids += [order["id"] for order in answer.json()["data"]]
        if answer.json()["next_cursor"] is None:
            return ids
        query["cursor"] = answer.json()["next_cursor"]


class TestWhenOrdersAreArchived:
    @pytest.mark.parametrize(
        ("commands", "days", "final_status"),
        [(REJECTED, 30, "REJECTED"), (MATCHED, 90, "MATCHED"), (EXPIRED, 90, "EXPIRED")],
    )
    def test_when_their_time_is_over(
        self, api: Api, customer: int, commands: list[Any], days: int, final_status: str
    ) -> None:
        order = ended(api, customer, commands)
        pass_time(api, days * DAY - timedelta(minutes=1))
        archive(api)
        assert api.order(order["id"], customer) == order
        pass_time(api, timedelta(minutes=2))
        assert archive(api) == 1
        row = api.order(order["id"], customer)
        kept = {"status": "ARCHIVED", "final_status": final_status, "version": order["version"] + 1}
        assert row == {**order, **kept, "updated_at": row["updated_at"]}
        assert row["updated_at"] > order["updated_at"]
        assert archive(api) == 0

    def test_the_time_counts_from_their_end(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        pass_time(api, 400 * DAY)
        archive(api)
        api.command(order, filled(MarkOrderMatched, "10"))
        pass_time(api, 89 * DAY)
        assert archive(api) == 0
        assert api.order(order["id"], customer)["status"] == "MATCHED"

    def test_open_ones_never(self, api: Api, customer: int) -> None:
        orders = [api.placed(customer), api.confirmed(customer)]
        asked = api.confirmed(customer)
        api.request("DELETE", f"/api/orders/{asked['id']}", customer)
        pass_time(api, 4000 * DAY)
        archive(api)
        statuses = [api.order(order["id"], customer)["status"] for order in (*orders, asked)]
        assert statuses == ["PENDING_RESERVATION", "ORDER_CONFIRMED", "PENDING_CANCEL"]

    def test_they_leave_the_busy_tables_for_those_of_the_month(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED)
        in_orders = "SELECT (SELECT count(*) FROM orders WHERE id = %s) + (SELECT count(*) FROM order_history WHERE order_id = %s)"
        assert api.count(in_orders, order["id"], order["id"]) == 0
        for table, column, rows in (("archived_orders", "id", 1), ("archived_order_history", "order_id", 6)):
            month = f"{table}_{order['updated_at'][:7].replace('-', '_')}"
            assert api.count(f"SELECT count(*) FROM {month} WHERE {column} = %s", order["id"]) == rows

    def test_the_next_month_is_there_before_it_begins(self, api: Api) -> None:
        pass_time(api, 7000 * DAY)
        there = (
            "SELECT count(to_regclass(name || to_char(brokage_now() + interval '1 month', '_YYYY_MM')))"
            " FROM unnest(ARRAY['archived_orders', 'archived_order_history']) AS name"
        )
        assert api.count(there) == 0
        archive(api)
        assert api.count(there) == 2


class TestWhatIsSaid:
    def test_the_auditor_is_told_and_nobody_else(self, api: Api, customer: int) -> None:
        order = ended(api, customer, EXPIRED)
        told = {reader: len(api.messages(order["id"], reader)) for reader in ("processor", "notifier")}
        pass_time(api, 91 * DAY)
        archive(api)
        [*_, message] = api.messages(order["id"], "auditor")
        assert (message["type"], message["aggregate_version"]) == ("OrderArchived", order["version"] + 1)
        assert (message["customer_id"], message.get("actor", {}).get("id")) == (customer, None)
        payload = message["payload"]
        assert (payload["before"], payload["after"]) == ({"status": "EXPIRED"}, {"status": "ARCHIVED"})
        assert {reader: len(api.messages(order["id"], reader)) for reader in told} == told
        last = api.history(order["id"], customer)[-1]
        assert (last["status"], last["event_id"], last["actor_role"]) == ("ARCHIVED", message["event_id"], "SYSTEM")

    def test_the_history_goes_on_where_it_ended(self, api: Api, customer: int) -> None:
        order = ended(api, customer, EXPIRED)
        before = api.history(order["id"], customer)
        pass_time(api, 91 * DAY)
        archive(api)
        after = api.history(order["id"], customer)
        assert after[:-1] == before
        assert [row["seq"] for row in after] == list(range(1, order["version"] + 3))


class TestReading:
    def test_by_client_id(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED, client_order_id="mine")
        answer = api.request("GET", "/api/orders/by-client-id/mine", customer)
        assert (answer.status_code, answer.json()) == (200, order)

    def test_history_in_pages(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED)
        path = f"/api/orders/{order['id']}/events?limit=4"
        first = api.request("GET", path, customer).json()
        second = api.request("GET", f"{path}&cursor={first['next_cursor']}", customer).json()
        assert [row["seq"] for row in first["data"] + second["data"]] == [1, 2, 3, 4, 5, 6]

    def test_whose_it_is(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED)
        stranger = api.customer()
        for path in ("", "/events"):
            assert api.request("GET", f"/api/orders/{order['id']}{path}", stranger).status_code == 404
        assert listed(api, stranger, status="ARCHIVED") == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 200])
    def test_one_list_over_both(self, api: Api, broker: int, limit: int) -> None:
        """Archived, open and archived orders take turns in it, for a customer and for his broker."""
        customer, other = (api.customer(brokers=(broker,)) for _ in range(2))
        orders = [
            (api.confirmed if number % 2 else lambda user: ended(api, user, REJECTED))(user)
            for number, user in enumerate([customer, customer, other, customer, customer, other, customer])
        ]
        pass_time(api, 31 * DAY)
        archive(api)
        ids = [order["id"] for order in orders][::-1]
        his = [order["id"] for order in orders if order["customer_id"] == customer][::-1]
        assert listed(api, customer, limit=limit) == his
        assert listed(api, broker, limit=limit) == ids
        both = listed(api, broker, limit=limit, status="ARCHIVED"), listed(api, broker, limit=limit, status="REJECTED")
        assert both == ([order["id"] for order in orders if order["final_status"]][::-1], [])
        assert listed(api, broker, limit=limit, status="ORDER_CONFIRMED") == [id for id in ids if id not in both[0]]
        assert listed(api, customer, limit=limit, created_to=orders[3]["created_at"]) == his[-2:]
        assert listed(api, customer, order_side="SELL") == []

    def test_pages_hold_while_orders_move(self, api: Api, customer: int) -> None:
        ids = [ended(api, customer, REJECTED)["id"] for _ in range(6)][::-1]
        pass_time(api, 31 * DAY)
        page = api.request("GET", "/api/orders?limit=2", customer).json()
        seen = [order["id"] for order in page["data"]]
        while page["next_cursor"]:
            archive(api, archive_batch_max=1, archive_batches_max=1)
            page = api.request("GET", f"/api/orders?limit=2&cursor={page['next_cursor']}", customer).json()
            seen += [order["id"] for order in page["data"]]
        assert seen == ids


class TestAskedForOnceMore:
    def test_a_repeat_of_a_client_id_is_still_a_repeat(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED, client_order_id="again")
        answer = api.place(customer, client_order_id="again")
        assert (answer.status_code, answer.json()) == (200, order)
        other = api.place(customer, client_order_id="again", size="11")
        assert (other.status_code, other.json()["code"]) == (409, "client-order-id-reused")
        assert listed(api, customer) == [order["id"]]

    @pytest.mark.parametrize(("commands", "expected"), [(MATCHED, 409), (REJECTED, 409), (EXPIRED, 200)])
    def test_a_cancel_is_answered_as_what_it_was(
        self, api: Api, customer: int, commands: list[Any], expected: int
    ) -> None:
        order = archived(api, customer, commands)
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer)
        assert answer.status_code == expected
        assert answer.json().get("code", answer.json()["status"]) in ("order-already-final", "ARCHIVED")
        assert api.order(order["id"], customer) == order

    def test_a_cancel_of_a_canceled_one(self, api: Api, customer: int) -> None:
        order = canceled(api, customer)
        pass_time(api, 91 * DAY)
        archive(api)
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer)
        assert (answer.status_code, answer.json()["final_status"]) == (200, "CANCELED")

    def test_late_commands_change_nothing(self, api: Api, customer: int) -> None:
        order = archived(api, customer, EXPIRED)
        api.command(order, ConfirmOrder(), filled(MarkOrderPartiallyMatched, "2"), MarkOrderCanceled())
        assert api.order(order["id"], customer) == order

    def test_an_answer_that_was_lost_is_given_again(self, api: Api, customer: int) -> None:
        """As when a person lets a saga go on that waited for this for months."""
        order = archived(api, customer, MATCHED)
        told = len(api.says(order["id"], "notifier"))
        api.command(order, filled(MarkOrderMatched, "10"))
        assert api.says(order["id"])[-2:] == ["OrderMatched", "OrderMatched"]
        assert len(api.says(order["id"], "notifier")) == told


@contextmanager
def failing(point: str, nth: int) -> Iterator[None]:
    """The nth time that this point is passed, the process would have died there."""
    passed: list[str] = []

    def injector(name: str) -> None:
        if name == point:
            passed.append(name)
            if len(passed) == nth:
                raise InjectedFault(name)

    with inject(injector):
        yield


class TestBatches:
    def test_are_bounded(self, api: Api, customer: int) -> None:
        for _ in range(7):
            ended(api, customer, REJECTED)
        pass_time(api, 31 * DAY)
        assert [archive(api, archive_batch_max=2, archive_batches_max=2) for _ in range(3)] == [4, 3, 0]

    def test_rejected_ones_do_not_crowd_out_the_others(self, api: Api, customer: int) -> None:
        for commands in (REJECTED, MATCHED):
            ended(api, customer, commands)
        pass_time(api, 91 * DAY)
        assert [archive(api, archive_batch_max=1, archive_batches_max=1) for _ in range(3)] == [1, 1, 0]

    @pytest.mark.parametrize(
        "point", ["unit_of_work.before_flush", "unit_of_work.before_commit", "unit_of_work.committed"]
    )
    def test_a_death_between_them_leaves_whole_batches(self, api: Api, customer: int, point: str) -> None:
        orders = [ended(api, customer, REJECTED) for _ in range(6)]
        pass_time(api, 31 * DAY)
        archive(api, archive_batches_max=1, archive_batch_max=1)  # with the partitions
        with failing(point, 2), pytest.raises(InjectedFault):
            archive(api, archive_batch_max=2)
        moved = len(listed(api, customer, status="ARCHIVED"))
        assert moved == (5 if point == "unit_of_work.committed" else 3)
        assert archive(api, archive_batch_max=2) == 6 - moved
        assert len(listed(api, customer, status="ARCHIVED")) == 6
        for order in orders:
            assert api.says(order["id"], "auditor").count("OrderArchived") == 1
            assert [row["status"] for row in api.history(order["id"], customer)][-2:] == ["REJECTED", "ARCHIVED"]

    def test_many_archivers_move_each_order_once(self, api: Api, customer: int) -> None:
        orders = [ended(api, customer, REJECTED) for _ in range(30)]
        pass_time(api, 31 * DAY)
        counts = api.together(4, lambda _: archive(api, archive_batch_max=2, archive_batches_max=30))
        while count := archive(api):  # what one had locked, another may have passed over at its end
            counts.append(count)
        assert sum(counts) == 30
        for order in orders:
            assert api.says(order["id"], "auditor").count("OrderArchived") == 1
            assert api.order(order["id"], customer)["status"] == "ARCHIVED"


class TestDeletion:
    def test_is_off_by_default(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED)
        pass_time(api, 10_000 * DAY)
        keep_archive(api.resources.database, settings(api))
        assert api.order(order["id"], customer) == order

    def test_of_months_that_are_old_enough(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED, client_order_id="gone")
        pass_time(api, 40 * DAY)
        younger = archived(api, customer, MATCHED)  # 91 days later
        kept = settings(api, archive_kept_months=2)
        keep_archive(api.resources.database, kept)
        assert api.order(younger["id"], customer) == younger
        for path in (order["id"], f"{order['id']}/events", "by-client-id/gone"):
            assert api.request("GET", f"/api/orders/{path}", customer).status_code == 404
        assert listed(api, customer) == [younger["id"]]
        row = "SELECT version FROM deleted_orders WHERE order_id = %s AND final_status = 'MATCHED'"
        assert api.count(row, order["id"]) == order["version"]
        history = "SELECT count(*) FROM all_order_history WHERE order_id = %s"
        assert api.count(history, order["id"]) == 0
        assert delete_old_months(api.resources.database, 2) == 0

    def test_a_month_stays_as_long_as_it_says(self, api: Api, customer: int) -> None:
        order = archived(api, customer, MATCHED)
        pass_time(api, 59 * DAY)  # at most two months' ends have passed, and not two months since one of them
        delete_old_months(api.resources.database, 2)
        assert api.order(order["id"], customer) == order

    def test_a_repeat_of_a_client_id_does_not_become_a_second_order(self, api: Api, customer: int) -> None:
        archived(api, customer, MATCHED, client_order_id="gone")
        pass_time(api, 70 * DAY)
        assert delete_old_months(api.resources.database, 1) >= 1
        for _ in range(2):
            answer = api.place(customer, client_order_id="gone", key="k")
            assert (answer.status_code, answer.json()["code"]) == (409, "client-order-id-reused")
        assert listed(api, customer) == []


class TestTheHistoryIsAppendOnlyStill:
    ARCHIVING = "SELECT set_config('brokage.archiving', 'on', true)"

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM order_history WHERE order_id = %(id)s",
            "UPDATE order_history SET status = status WHERE order_id = %(id)s",
            "TRUNCATE order_history",
        ],
    )
    @pytest.mark.parametrize("archiving", [False, True])
    def test_whoever_asks(self, servers: Any, api: Api, customer: int, statement: str, archiving: bool) -> None:
        """Neither the owner of the table, who is the service, nor a superuser, even if they say that they archive."""
        order = ended(api, customer, MATCHED)
        name = api.database_url.rsplit("/", 1)[1].partition("?")[0]
        for url in (api.database_url, servers.postgres.url_of("postgres", name)):
            with psycopg.connect(url) as connection, pytest.raises(errors.InsufficientPrivilege, match="append-only"):
                if archiving:
                    connection.execute(self.ARCHIVING)
                connection.execute(statement.encode(), {"id": order["id"]})
        assert len(api.history(order["id"], customer)) == 5

    def test_what_goes_must_be_in_the_archive_as_it_was(self, api: Api, customer: int) -> None:
        order = ended(api, customer, MATCHED)
        archive(api)
        forged = (
            "WITH gone AS (DELETE FROM order_history WHERE order_id = %s RETURNING *) INSERT INTO archived_order_history"
            " SELECT order_id, seq, CASE status WHEN 'MATCHED' THEN 'REJECTED' ELSE status END, event_id, actor_id,"
            " actor_role, detail, created_at, brokage_now() FROM gone"
        )
        with psycopg.connect(api.database_url) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(self.ARCHIVING)
            connection.execute(forged.encode(), [order["id"]])
        assert len(api.history(order["id"], customer)) == 5

    @pytest.mark.parametrize("statement", ["UPDATE {} SET version = version", "DELETE FROM {}", "TRUNCATE {}"])
    def test_archived_orders_and_their_months_never_change(self, api: Api, customer: int, statement: str) -> None:
        order = archived(api, customer, MATCHED)
        month = f"archived_orders_{order['updated_at'][:7].replace('-', '_')}"
        for table in ("archived_orders", month):
            with psycopg.connect(api.database_url) as connection, pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.format(table).encode())


class TestLists:
    def test_an_admin_sees_both(self, api: Api, customer: int) -> None:
        old = archived(api, customer, MATCHED)
        new = api.placed(customer)
        admin = api.customer(role=Role.ADMIN)
        page = api.request("GET", "/api/orders?limit=2", admin).json()["data"]
        assert [order["id"] for order in page] == [new["id"], old["id"]]
