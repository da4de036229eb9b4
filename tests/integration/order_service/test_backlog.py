"""While nobody takes what order_service says, new orders are refused above a limit, and taken again when it is taken."""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.ids import new_id
from shared.messaging.backlog import Backlog, BacklogFull
from shared.settings import ServiceSettings
from tests.integration.order_service.conftest import Api


@pytest.fixture
def backlog(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backlog]:
    """With room for three more events for the processor than wait already."""
    waiting = api.count(
        "SELECT coalesce(sum(event_count), 0) FROM outbox_events WHERE acked_at IS NULL AND destination = 'processor'"
    )
    settings = ServiceSettings(backlog_events_max=waiting + 3, backlog_poll_seconds=3600.0)
    backlog = Backlog(api.resources.database, "order_service", settings)
    monkeypatch.setattr(api.resources, "backlog", backlog)
    yield backlog
    backlog._stop.set()


def acknowledge(api: Api, customer: int) -> None:
    """Everything for the processor has arrived."""
    api.count(
        "WITH acked AS (UPDATE outbox_events SET status = 'ACKED', acked_at = brokage_now()"
        " WHERE acked_at IS NULL AND destination = 'processor' RETURNING 1) SELECT count(*) FROM acked"
    )


def refused(answer: Any) -> bool:
    if answer.status_code == 503:
        assert (answer.json()["code"], int(answer.headers["Retry-After"])) == ("backlog-full", 5)
        return True
    return False


class TestBacklog:
    def test_orders_are_refused_above_it_and_what_was_accepted_is_answered(
        self, api: Api, customer: int, backlog: Backlog
    ) -> None:
        first = api.placed(customer, client_order_id="first")
        for _ in range(2):
            backlog.measure()
            api.placed(customer)
        backlog.measure()
        assert refused(api.place(customer))
        assert api.count("SELECT count(*) FROM orders WHERE customer_id = %s", customer) == 3
        again = api.place(customer, client_order_id="first")
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        assert api.order(first["id"], customer)["status"] == "PENDING_RESERVATION"
        assert api.request("DELETE", f"/api/orders/{first['id']}", customer).status_code == 202, "less work, not more"

    def test_it_opens_again_well_below(self, api: Api, customer: int, backlog: Backlog) -> None:
        backlog._judge(backlog._events_max)
        assert refused(api.place(customer))
        backlog._judge(backlog._events_max - 1)
        if backlog._events_max > 10:
            assert refused(api.place(customer)), "not one in, one out"
        backlog._judge(backlog._events_max * 9 // 10 - 1)
        assert api.place(customer).status_code == 201

    def test_a_refused_order_is_accepted_when_it_is_repeated(self, api: Api, customer: int, backlog: Backlog) -> None:
        key = new_id()
        backlog._judge(backlog._events_max)
        assert refused(api.place(customer, key=key))
        backlog._judge(0)
        assert api.place(customer, key=key).status_code == 201

    def test_readers_that_move_no_orders_do_not_count(self, api: Api, customer: int, backlog: Backlog) -> None:
        before = backlog.measure()
        api.placed(customer)
        assert backlog.measure() == before + 1, "one event for the processor, and one for the auditor"

    def test_is_shown_as_metrics(self, api: Api, customer: int, backlog: Backlog) -> None:
        api.placed(customer)
        events = backlog.measure()
        text = api.request("GET", "/metrics").text
        assert f'brokage_outbox_waiting_events{{reader="processor",service="order_service"}} {float(events)}' in text
        assert 'brokage_backlog_refusing{service="order_service"} 0.0' in text
        assert 'brokage_dead_letters_open{service="order_service"}' in text
        assert 'brokage_outbox_parked_batches{service="order_service"}' in text

    def test_refusing_costs_no_look_at_the_database(self, backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
        backlog._judge(backlog._events_max)
        monkeypatch.setattr(backlog, "_database", None)
        with pytest.raises(BacklogFull):
            backlog.refuse_when_full()
