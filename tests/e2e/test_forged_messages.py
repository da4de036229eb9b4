"""Somebody who can write to Valkey: nothing he says has an effect, and the auditor reads of it."""

import msgspec
import redis

from infra.faults.wire import wire_message
from shared.contracts.customers import SessionEnded
from shared.contracts.message import encode_messages
from shared.http.telemetry import STREAM
from shared.ids import new_id
from shared.messaging.delivery import Batch, Delivery, encode_delivery
from shared.testing.messages import create_message
from shared.testing.pump import SOURCES
from shared.testing.seals import STRANGER
from tests.e2e.system import System, wait_until

READERS = ("order_service", "asset_service", "processor", "notifier", "auditor")


def forged_delivery(customer_id: int) -> tuple[str, bytes]:
    """A batch that every reader would take, of an event that would be in the trail."""
    event = create_message(
        SessionEnded(customer_id=customer_id, session_id=new_id(), tokens_until="2100-01-01T00:00:00Z"),  # type: ignore[arg-type]
        aggregate_id=str(customer_id),
        customer_id=customer_id,
    )
    batch = Batch(new_id(), 1, msgspec.Raw(encode_messages([event])))
    return event.event_id, encode_delivery(Delivery("customer_service", [batch]))


def test_what_nobody_of_ours_has_sealed_is_refused_and_on_record(system: System) -> None:
    trader = system.sign_in("trader1")
    event_id, delivery = forged_delivery(trader.id)
    with redis.Redis.from_url(system.urls["redis"]) as valkey:
        for queue in READERS:
            for seals in (None, STRANGER):
                id, data = wire_message(queue, delivery, seals)
                valkey.hset(f"dramatiq:{queue}.msgs", id, data)
                valkey.rpush(f"dramatiq:{queue}", id)
                valkey.lpush(f"dramatiq:{queue}.bell", b"1")
        for source in SOURCES:
            valkey.rpush(f"brokage:{source}.acks", msgspec.json.encode({"said": [], "seal": "0" * 64}))
        valkey.xadd(STREAM, {"batch": b"[]", "seal": "0" * 64})

    expected = {(reader, "delivery") for reader in READERS} | {(source, "acknowledgement") for source in SOURCES}
    expected |= {("auditor", "telemetry")}

    def on_record() -> bool:
        records = system.auditor.all("/api/audit/logs", action="MessageRefused")
        assert {(record["user_id"], record["role"], record["entity_type"]) for record in records} <= {
            (None, "UNKNOWN", "message_queue")
        }
        return {(record["entity_id"], record["new_value"]["kind"]) for record in records} == expected

    wait_until(on_record, 20.0, "the record of all refusals")
    assert system.auditor.all("/api/audit/logs", action="SessionEnded", entity_id=str(trader.id)) == [], event_id
    # Beside it, work goes on as ever.
    order = trader.confirmed("BUY", "1", "10")
    assert trader.cancel(order["id"], wait=10).json()["status"] == "CANCELED"
    wait_until(
        lambda: 'brokage_messages_refused{kind="delivery",queue="notifier"}' in system.client.get("/metrics").text,
        10.0,
        "the metric",
    )
    assert system.command("reconcile").returncode == 0
