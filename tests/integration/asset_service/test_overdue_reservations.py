"""A reservation of an order whose time is over is never released for that alone: it is an alarm."""

from datetime import timedelta
from typing import Any

import msgspec
from structlog.testing import capture_logs

from asset_service import repository
from asset_service.service.overdue import report_overdue
from asset_service.settings import Settings
from shared.contracts.message import Message
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.worlds import release, reserve


def timed(api: Api, customer: int, order: str) -> Message[Any]:
    """A ReserveAsset of an order that ended an hour ago."""
    [(now,)] = api.query("SELECT brokage_now()")
    message = reserve(order, customer, "BUY", "2", "100")
    payload = msgspec.structs.replace(message.payload, expires_at=now - timedelta(hours=1))
    return msgspec.structs.replace(message, payload=payload)


class TestOverdueReservations:
    def overdue(self, api: Api, settings: Settings) -> tuple[int, list[dict[str, Any]]]:
        with capture_logs() as logs:
            count = report_overdue(api.resources.database, settings)
        return count, [entry for entry in logs if entry["event"] == "reservations overdue"]

    def test_are_reported_and_left_alone(self, api: Api) -> None:
        settings = api.resources.settings
        before, _ = self.overdue(api, settings)
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(timed(api, customer, order), reserve(new_id(), customer, "BUY", "1", "100"))
        count, [alarm] = self.overdue(api, settings)
        assert (count, alarm["count"], alarm["log_level"]) == (before + 1, before + 1, "error")
        assert order in alarm["order_ids"]
        assert api.balance(customer, "TRY") == (1000, 700)
        [shown] = api.request("GET", f"/api/reservations?order_id={order}", customer).json()["data"]
        assert (shown["status"], shown["remaining"]) == ("ACTIVE", "200")
        assert shown["expires_at"] is not None

        api.handle(release(order, customer, reason="EXPIRED"))
        assert self.overdue(api, settings)[0] == before
        assert api.balance(customer, "TRY") == (1000, 900)

    def test_are_a_metric(self, api: Api) -> None:
        customer, order = api.customer(TRY="1000"), new_id()
        api.handle(timed(api, customer, order))
        api.resources.backlog.measure()
        with api.resources.database.read() as connection:
            count = repository.count_overdue_reservations(connection, grace_seconds=300)
        assert count > 0
        assert f"brokage_reservations_overdue {float(count)}" in api.request("GET", "/metrics").text
        api.handle(release(order, customer, reason="EXPIRED"))
