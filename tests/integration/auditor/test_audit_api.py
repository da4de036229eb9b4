"""The audit endpoints behind the real edge: who may read, what they show, and that every read is on record."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from fastapi.testclient import TestClient

from auditor.app import create
from auditor.documents import LOGS, TELEMETRY
from auditor.export import FIELDS
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.contracts.customers import CustomerRegistered
from shared.contracts.message import Actor
from shared.contracts.orders import OrderCanceled, OrderConfirmed
from shared.contracts.system import AdminActed
from shared.db.page import encode_cursor
from shared.messaging import seal
from shared.testing.messages import create_customer_event, create_message, create_order_event

AUDITOR, ADMIN, CUSTOMER, BROKER = 901, 902, 903, 904
ROLES = {AUDITOR: Role.AUDITOR, ADMIN: Role.ADMIN, CUSTOMER: Role.CUSTOMER, BROKER: Role.BROKER}
READS = {
    "search_audit_logs": "/api/audit/logs",
    "verify_audit": "/api/audit/verify",
    "export_audit": "/api/audit/export",
    "list_telemetry": "/api/audit/telemetry",
}


@pytest.fixture(autouse=True, scope="module")
def people(api: Any) -> None:
    api.trail.auditor.handle(
        [create_customer_event(CustomerRegistered, id, role=role.value) for id, role in ROLES.items()]
    )


class TestWhoMayRead:
    @pytest.mark.parametrize("path", READS.values())
    @pytest.mark.parametrize(
        ("who", "status"), [(AUDITOR, 200), (ADMIN, 200), (CUSTOMER, 403), (BROKER, 403), (None, 401)]
    )
    def test_auditors_and_admins_only(self, api: Any, path: str, who: int | None, status: int) -> None:
        assert api.get(path, who).status_code == status

    @pytest.mark.parametrize("operation", READS)
    def test_every_read_is_on_record_once(self, api: Any, operation: str) -> None:
        before = len(api.reads(operation))
        api.get(READS[operation], AUDITOR)
        api.get(READS[operation], CUSTOMER)
        records = api.reads(operation)
        assert len(records) == before + 1
        assert (records[-1]["user_id"], records[-1]["role"]) == (AUDITOR, "AUDITOR")
        assert records[-1]["entity_type"] == "audit_trail"

    def test_the_record_of_a_search_says_what_was_searched(self, api: Any) -> None:
        api.get("/api/audit/logs?user_id=7&action=OrderConfirmed&from=2026-01-01T00:00:00Z", AUDITOR)
        asked = api.reads("search_audit_logs")[-1]["new_value"]
        assert (asked["user_id"], asked["action"], asked["from"]) == (7, "OrderConfirmed", "2026-01-01T00:00:00+00:00")

    def test_a_search_that_is_refused_is_no_read(self, api: Any) -> None:
        before = len(api.reads("search_audit_logs"))
        assert api.get("/api/audit/logs?user_id=x", AUDITOR).status_code == 422
        assert len(api.reads("search_audit_logs")) == before


class TestSearch:
    def seqs(self, api: Any, query: str) -> list[int]:
        answer = api.get(f"/api/audit/logs?{query}", AUDITOR)
        assert answer.status_code == 200, answer.text
        return [record["seq"] for record in answer.json()["data"]]

    def test_a_record_has_the_contracts_fields(self, api: Any) -> None:
        message = create_order_event(OrderConfirmed, before={"status": "A"}, after={"status": "B"})
        api.trail.auditor.handle([message])
        [record] = api.get(f"/api/audit/logs?entity_id={message.aggregate_id}", AUDITOR).json()["data"]
        assert list(record) == list(FIELDS)
        assert record["event_id"] == message.event_id
        assert (record["old_value"], record["new_value"]["status"]) == ({"status": "A"}, "B")
        assert record["timestamp"].endswith("Z")

    def test_each_filter_finds_its_records(self, api: Any) -> None:
        moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
        wanted = msgspec.structs.replace(
            create_order_event(OrderCanceled), actor=Actor(4242, "CUSTOMER"), occurred_at=moment
        )
        other = create_message(AdminActed(action="run_matching", subject={}), aggregate_id="9")
        api.trail.auditor.handle([wanted, other])
        [record] = api.trail.database[LOGS].find({"_id": wanted.event_id})
        until = quote((moment + timedelta(seconds=1)).isoformat())
        assert self.seqs(api, f"entity_type=order&entity_id={wanted.aggregate_id}") == [record["seq"]]
        assert self.seqs(api, "user_id=4242") == [record["seq"]]
        assert self.seqs(api, "action=OrderCanceled") == [record["seq"]]
        assert self.seqs(api, f"from={quote(moment.isoformat())}&to={until}") == [record["seq"]]
        assert self.seqs(api, f"to={quote(moment.isoformat())}") == []
        assert self.seqs(api, "user_id=4242&action=OrderConfirmed") == []
        assert self.seqs(api, "action=run_matching") == [record["seq"] + 1]

    def test_pages_go_back_in_time_without_gap_or_repeat(self, api: Any) -> None:
        messages = [create_order_event(OrderConfirmed) for _ in range(7)]
        messages = [msgspec.structs.replace(message, actor=Actor(5151, "CUSTOMER")) for message in messages]
        api.trail.auditor.handle(messages)
        seen: list[str] = []
        cursor = ""
        while True:
            page = api.get(f"/api/audit/logs?user_id=5151&limit=3{cursor}", AUDITOR).json()
            seen += [record["event_id"] for record in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == [message.event_id for message in reversed(messages)]

    @pytest.mark.parametrize(
        "query",
        [
            "user_id[$ne]=0",
            "user_id=%7B%22%24ne%22%3Anull%7D",
            "from=yesterday",
            "limit=0",
            "unknown=1",
            "action=",
            f"cursor={encode_cursor([2**70])}",
            f"cursor={encode_cursor([-1])}",
            f"cursor={encode_cursor(['x'])}",
        ],
    )
    def test_what_is_not_a_filter_is_refused(self, api: Any, query: str) -> None:
        assert api.get(f"/api/audit/logs?{query}", AUDITOR).status_code == 422

    @pytest.mark.parametrize("value", ["$ne", '{"$ne": null}', "$where", ".*"])
    def test_operators_in_a_filter_are_only_text(self, api: Any, value: str) -> None:
        assert self.seqs(api, f"entity_id={quote(value)}") == []


class TestVerify:
    def test_it_says_how_many_records_hold_and_their_head(self, api: Any) -> None:
        api.chain()
        answer = api.get("/api/audit/verify", AUDITOR).json()
        last = api.trail.records()[-1]
        assert answer == {
            "valid": True,
            "records": last["seq"],
            "head": {"seq": last["seq"], "hash": last["hash"]},
            "first_bad": None,
            "checkpoints": 0,
        }

    def test_it_names_the_first_bad_record(self, api: Any) -> None:
        api.trail.record(3)
        api.trail.database[LOGS].update_one({"seq": 2}, {"$set": {"role": "NOBODY"}})
        try:
            answer = api.get("/api/audit/verify", AUDITOR).json()
        finally:
            api.trail.database[LOGS].update_one({"seq": 2}, {"$set": {"role": "SYSTEM"}})
        assert answer["valid"] is False
        assert answer["first_bad"] == {"seq": 2, "reason": "changed"}
        assert api.get("/api/audit/verify", AUDITOR).json()["valid"] is True


class TestExport:
    def test_ndjson_has_every_record_in_order(self, api: Any) -> None:
        api.chain()
        answer = api.get("/api/audit/export?format=ndjson", AUDITOR)
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        assert [json.loads(line)["seq"] for line in answer.text.splitlines()] == [r["seq"] for r in api.trail.records()]

    def test_csv_runs_no_formula(self, api: Any) -> None:
        message = create_message(AdminActed(action="=HYPERLINK(1)", subject={}), aggregate_id="@SUM(1)")
        api.trail.auditor.handle([message])
        answer = api.get("/api/audit/export?format=csv&entity_id=%40SUM%281%29", AUDITOR)
        header, row = list(csv.reader(io.StringIO(answer.text, newline="")))
        assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
        assert header == list(FIELDS)
        assert (row[FIELDS.index("action")], row[FIELDS.index("entity_id")]) == ("'=HYPERLINK(1)", "'@SUM(1)")

    def test_other_formats_are_refused(self, api: Any) -> None:
        assert api.get("/api/audit/export?format=xlsx", AUDITOR).status_code == 422


class TestTelemetry:
    def test_it_pages_from_the_newest(self, api: Any) -> None:
        api.trail.database[TELEMETRY].insert_many(
            [
                {
                    "_id": f"{n:015d}",
                    "timestamp": datetime.now(UTC),
                    "endpoint": "/api/orders",
                    "method": "GET",
                    "response_time": n,
                    "status_code": 200,
                    "user_id": None,
                    "correlation_id": str(n),
                    "headers": {},
                }
                for n in range(5)
            ]
        )
        first = api.get("/api/audit/telemetry?limit=3", AUDITOR).json()
        rest = api.get(f"/api/audit/telemetry?limit=3&cursor={first['next_cursor']}", AUDITOR).json()
        assert [row["response_time"] for row in first["data"] + rest["data"]] == [4, 3, 2, 1, 0]
        assert rest["next_cursor"] is None


def test_it_is_ready_when_its_store_answers(api: Any) -> None:
    assert api.get("/health/ready", None).status_code == 200


def test_without_its_store_it_starts_and_answers_503(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that serves all services must not be kept from its start by this one."""
    keys.ensure(tmp_path)
    seal.ensure(tmp_path)
    monkeypatch.setenv("BROKAGE_MONGO_URL", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")
    monkeypatch.setenv("BROKAGE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("BROKAGE_KEY_DIR", str(tmp_path))
    token = tokens.issue(keys.load_signing_key(tmp_path), customer_id=AUDITOR, session_id="s")
    with TestClient(create(), raise_server_exceptions=False) as client:
        answer = client.get("/api/audit/logs", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert client.get("/health/ready").status_code == 503
