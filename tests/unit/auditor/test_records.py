"""From events to audit records: who, what, before, after; and no personal data."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from auditor.records import content_from_event, content_from_read, digest_of_personal, is_change
from shared.contracts.customers import CustomerRegistered, CustomerUpdated, UserSignedIn
from shared.contracts.message import Actor
from shared.contracts.orders import OrderConfirmed
from shared.contracts.system import AdminActed
from shared.testing.messages import create_customer_event, create_message, create_order_event, create_preferences_event


def with_payload(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, payload=msgspec.structs.replace(message.payload, **changes))


class TestContentFromEvent:
    def test_it_says_who_did_what_to_which_thing_and_what_changed(self) -> None:
        message = create_order_event(OrderConfirmed, before={"status": "A"}, after={"status": "B"})
        message = msgspec.structs.replace(message, actor=Actor(3, "BROKER", 7), causation_id="cause")
        content = content_from_event(message)
        assert content["event_id"] == message.event_id
        assert content["action"] == "OrderConfirmed"
        assert (content["user_id"], content["role"]) == (3, "BROKER")
        assert (content["entity_type"], content["entity_id"]) == ("order", message.aggregate_id)
        assert content["old_value"] == {"status": "A"}
        assert content["new_value"]["status"] == "B"
        assert content["new_value"]["price"] == "20.50"
        assert content["correlation_id"] == message.correlation_id
        metadata = content["metadata"]
        assert (metadata["customer_id"], metadata["on_behalf_of"], metadata["causation_id"]) == (7, 7, "cause")

    def test_times_are_in_whole_milliseconds(self) -> None:
        moment = datetime(2026, 11, 21, 1, 2, 3, 456789, tzinfo=UTC)
        message = msgspec.structs.replace(create_order_event(OrderConfirmed), occurred_at=moment)
        assert content_from_event(message)["timestamp"] == moment.replace(microsecond=456000)

    def test_the_action_of_an_admins_act_is_the_operation(self) -> None:
        message = create_message(AdminActed(action="run_matching", subject={"asset_name": "AAPL"}), aggregate_id="1")
        content = content_from_event(message)
        assert content["action"] == "run_matching"
        assert content["metadata"]["event_type"] == "AdminActed"

    def test_personal_data_is_kept_only_as_a_digest(self) -> None:
        canary = "canary-4711@example.com"
        message = create_customer_event(CustomerRegistered, 7, email=canary, username="canary-name")
        message = with_payload(message, before={"email": canary}, after={"phone": "+90 canary", "tier": "VIP"})
        content = content_from_event(message)
        assert "canary" not in repr(content)
        assert content["new_value"]["email"] == content["old_value"]["email"] == digest_of_personal("7", canary)
        assert content["new_value"]["tier"] == "VIP"

    def test_personal_data_is_found_at_any_depth(self) -> None:
        subject = {"people": [{"email": "canary"}], "full_name": ["canary"]}
        assert "canary" not in repr(content_from_event(create_message(AdminActed(action="a", subject=subject))))

    def test_a_digest_is_not_digested_again(self) -> None:
        digest = digest_of_personal("7", "a@example.com")
        message = with_payload(create_customer_event(CustomerUpdated, 7), after={"email": digest})
        assert content_from_event(message)["new_value"]["email"] == digest

    def test_a_sign_in_names_the_user_by_id(self) -> None:
        message = create_message(
            UserSignedIn(username="canary"), aggregate_id="7", customer_id=7, actor=Actor(7, "ADMIN")
        )
        content = content_from_event(message)
        assert content["user_id"] == 7
        assert "canary" not in repr(content)

    def test_numbers_beyond_the_stores_range_become_text(self) -> None:
        content = content_from_event(create_message(AdminActed(action="a", subject={"n": 2**70, "d": Decimal("1.5")})))
        assert content["new_value"]["subject"] == {"n": str(2**70), "d": "1.5"}

    def test_floats_are_text_because_their_json_is_not_the_same_everywhere(self) -> None:
        content = content_from_event(create_message(AdminActed(action="a", subject={"f": [1e16, {"g": -0.5}]})))
        assert content["new_value"]["subject"] == {"f": ["1e+16", {"g": "-0.5"}]}


class TestIsChange:
    def test_a_state_said_again_for_new_readers_is_none(self) -> None:
        assert not is_change(create_customer_event(CustomerUpdated, 7, after=None))
        assert not is_change(create_preferences_event(7, version=1))

    def test_everything_else_is(self) -> None:
        assert is_change(create_customer_event(CustomerUpdated, 7))
        assert is_change(create_order_event(OrderConfirmed))


class TestContentFromRead:
    def test_it_says_who_asked_what(self) -> None:
        content = content_from_read(
            event_id="e",
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
            operation="search_audit_logs",
            query={"user_id": 5, "action": None},
            user_id=1,
            role="AUDITOR",
            organization_id="o",
            correlation_id="c",
        )
        assert content["new_value"] == {"user_id": 5}
        assert (content["action"], content["entity_type"], content["user_id"]) == (
            "search_audit_logs",
            "audit_trail",
            1,
        )
        assert content.keys() == content_from_event(create_order_event(OrderConfirmed)).keys()
