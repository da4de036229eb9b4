"""The design's list of bad inputs and attacks, row by row, against all six services: the number before a case is its row.

Elsewhere: 18-27 also tests/unit/shared/json; 37-49, 137-155 tests/integration/edge; 54-64 order_service and authorization;
75-78 order_service and processor; 83-112 tests/unit/shared/auth, customer_service, authorization and e2e; 113-118 authorization;
156-158 tests/unit/shared/test_log_lines.py; 159-161 auditor; 179 tests/integration/infra.
What they are about does not exist: risk limits (67-74, but a halted instrument), If-Match (80-82), registering oneself and
resetting a password (111, 112), webhooks (162-176), service tokens (178). Not held: 177, who may write to Valkey may forge a
message (docs/security.md). Not tried: 154 with 10,000 connections, 155 an export that is abandoned.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.db.page import encode_cursor
from shared.errors import known_errors
from shared.ids import new_id
from tests.integration.bad_inputs.conftest import Judge
from tests.integration.world import ORDER

DECIMALS = {
    "1": "-1",
    "2": "0",
    "3": "-0",
    "4": "NaN",
    "5": "Infinity",
    "6": "1e400",
    "7": "1e-400",
    "8": "1.1234567",
    "8 scale of a decimal": "0." + "1" * 19,
    "9": "9" * 19,
    "10": 1,
    "11": True,
    "12": None,
    "13": "",
    "14": " 1 ",
    "15": "+1",
    "16": "1_000",
    "17": "١٢",
    "17 full width": "１",
    "17 roman": "Ⅷ",
    "10 float": 1.5,
    "10 list": ["1"],
    "10 object": {"$gt": "1"},
}
AWKWARD = {
    "28": "a\x00b",
    "29 direction": "a\u202eb",
    "29 zero width": "a\u200bb",
    "29 control": "a\x1bb",
    "30 not composed": "e\u0301",
    "31 quote": "' OR 1=1--",
    "31 markup": "<script>alert(1)</script>",
    "31 template": "${jndi:ldap://x/a}{{7*7}}%s%n",
    "31 path": "../../etc/passwd",
    "32": "x" * 40_000,
    "33": "👩‍👩‍👧‍👦",
}
FIELDS = {
    "client_order_id": ("/api/orders", {**ORDER, "size": "1"}),
    "asset_name": ("/api/orders", {**ORDER, "size": "1", "client_order_id": "c"}),
    "reference": ("/api/assets/withdraw", {"asset_name": "TRY", "amount": "1"}),
    "full_name": ("/api/customers", {"username": "u", "password": "a good password"}),
    "username": ("/api/customers", {"password": "a good password"}),
}
TRANSFER = {"asset_name": "TRY", "amount": "1", "reference": "listed"}
FOREIGN_FIELDS = {
    "123": ("/api/orders", {"status": "MATCHED"}),
    "124": ("/api/orders", {"filled_size": "1"}),
    "125": ("/api/orders", {"version": 7}),
    "126": ("/api/orders", {"created_at": "2026-01-01T00:00:00Z"}),
    "127": ("/api/assets/withdraw", {"usable_size": "1000000"}),
    "34": ("/api/orders", {"no_such_field": 1}),
    "181": ("/api/orders", {f"{'Aa' * 8}{number}": 1 for number in range(2000)}),
}
QUERIES = {
    "35": "unknown=1",
    "36": "limit=1&limit=9",
    "50": "limit=-1",
    "50 zero": "limit=0",
    "50 huge": "limit=1000000000",
    "51 forged": "cursor=bm90IG91cnM",
    "51 base64 of JSON": "cursor=eyJpZCI6MX0",
    "51 not base64": "cursor=%F0%9F%92%A3",
    "52": "sort=size%3Bdrop",
    "53 order": "created_from=2026-11-21T00:00:00Z&created_to=2026-11-20T00:00:00Z",
    "53 year": "created_to=10000-01-01T00:00:00Z",
    "53 zone": "created_from=2026-11-21T00:00:00",
    "101": "access_token=x",
    "128": "asset_name=%27%20OR%201%3D1--",
    "129": "sort=id;drop%20table%20orders",
    "130": "asset_name=" + "%25" * 2000,
    "131": "status=%27%3B--",
    "132": "customer_id=1%20OR%201%3D1",
}
NOT_JSON = {
    "18": b'{"size": NaN}',
    "18 infinity": b'{"size": -Infinity}',
    "18 beyond a double": b'{"size": 1e400}',
    "19": b'{"size": ' + b"9" * 5_000 + b"}",
    "20": b'{"size": "1", "size": "2"}',
    "21": b'\xef\xbb\xbf{"size": "1"}',
    "22": b'{"size": "1"} x',
    "23": '{"size": "1"}'.encode("utf-16"),
    "24": b'{"size": "\xc0\xaf"}',
    "25": b'{"size": "\\ud800"}',
    "26": b"[" * 50_000,
    "27": b'{"size": "1',
    "28": b'{"client_order_id": "a\\u0000b"}',
}
WRITES = ("/api/orders", "/api/assets/withdraw", "/api/matching/run", "/api/customers", "/api/api-keys")
OTHER_TYPES = {
    "40": "text/plain",
    "40 none": "",
    "41": "application/x-www-form-urlencoded",
    "41 parts": "multipart/form-data; boundary=x",
    "42": "application/soap+xml",
}
XXE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
OTHER_SPELLINGS = {
    "120": "/internal",
    "120 admin": "/api/admin",
    "120 file": "/.env",
    "121": "/api/orders/",
    "122": "/api/%2e%2e/api/orders",
    "122 encoded": "/api/%6frders%2f",
    "122 slashes": "//api//orders",
    "122 case": "/API/ORDERS",
    "122 backslash": "/api%5corders",
    "122 parameter": "/api/orders;x=1",
}
COLLECTIONS = (
    "/api/orders",
    "/api/trades",
    "/api/sagas",
    "/api/matching/queue?asset_name=AAPL",
    "/api/assets",
    "/api/reservations",
    "/api/transfers",
    "/api/instruments",
    "/api/ledger/entries",
    "/api/customers",
    "/api/brokers",
    "/api/brokers/{broker}/customers",
    "/api/api-keys",
    "/api/notifications",
    "/api/audit/logs",
    "/api/audit/telemetry",
    "/api/dead-letters/order_service",
    "/api/dead-letters/notifier",
)
FORGED_KEYS: tuple[list[str | int], ...] = (
    ["x"],
    ["a\x00b"],
    [-1],
    [2**63],
    [2**70],
    ["x", "x"],
    ["infinity", "01a1fc82-f09b-7149-aaba-17f42ff6860f"],
    ["0001-01-01T00:00:00+14:00", "01a1fc82-f09b-7149-aaba-17f42ff6860f"],
    [2**63, "AAPL"],
)
OPERATORS = {"133": '{"$ne":null}', "134": '{"$where":"sleep(9)"}', "135": '{"$regex":".*"}', "136": "$where"}


def _decimal_fields() -> Iterator[Any]:
    for row, value in DECIMALS.items():
        for field in ("size", "price"):
            yield pytest.param("/api/orders", {**ORDER, "size": "1", field: value}, field, id=f"{row} {field}")
        transfer = {"asset_name": "AAPL", "amount": value, "reference": f"row {row}".replace(" ", "-")}
        yield pytest.param("/api/assets/withdraw", transfer, "amount", id=f"{row} amount")


class TestValues:
    @pytest.mark.parametrize(("path", "body", "field"), list(_decimal_fields()))
    def test_rows_1_to_17(self, judge: Judge, path: str, body: dict[str, Any], field: str) -> None:
        answer = judge.call("POST", path, "customer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation-error"), answer.text
        assert f"/{field}" in [error["pointer"] for error in answer.json()["errors"]]

    @pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
    @pytest.mark.parametrize("field", FIELDS)
    def test_rows_28_to_33(self, judge: Judge, field: str, text: str) -> None:
        """Refused without an echo, or stored and given back as it was."""
        path, rest = FIELDS[field]
        body = {**rest, field: text}
        if field == "full_name":
            body["username"] = f"u{new_id()}"
        answer = judge.call("POST", path, "admin" if path == "/api/customers" else "customer", json=body)
        if answer.status_code in (200, 201):
            assert answer.json()[field] == text
        else:
            assert answer.status_code in (400, 422)
            assert text not in answer.text

    @pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
    @pytest.mark.parametrize("path", WRITES)
    def test_rows_18_to_28(self, judge: Judge, path: str, body: bytes) -> None:
        answer = judge.call("POST", path, "admin", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-json"), answer.text

    @pytest.mark.parametrize("media_type", OTHER_TYPES.values(), ids=OTHER_TYPES.keys())
    @pytest.mark.parametrize("path", WRITES)
    def test_rows_40_to_42(self, judge: Judge, path: str, media_type: str) -> None:
        answer = judge.call("POST", path, "admin", content=XXE, headers={"Content-Type": media_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")

    def test_row_110_a_password_of_a_megabyte(self, judge: Judge) -> None:
        form = {"grant_type": "password", "username": "nobody", "password": "x" * 1_000_000}
        answer = judge.call("POST", "/api/auth/token", None, data=form)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")

    def test_row_30_two_that_look_the_same(self, judge: Judge) -> None:
        names = [f"caf\u00e9{new_id()}", f"cafe\u0301{new_id()}"]
        for name in names:
            body = {"username": name, "password": "a good password"}
            assert judge.call("POST", "/api/customers", "admin", json=body).status_code == 422

    @pytest.mark.parametrize("row", FOREIGN_FIELDS)
    def test_rows_34_and_123_to_127(self, judge: Judge, row: str) -> None:
        path, foreign = FOREIGN_FIELDS[row]
        body = {**ORDER, "size": "1"} if path == "/api/orders" else TRANSFER
        answer = judge.call("POST", path, "customer", json={**body, **foreign})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-field")


class TestQueries:
    @pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
    def test_rows_35_to_53_and_128_to_132(self, judge: Judge, query: str) -> None:
        answer = judge.call("GET", f"/api/orders?{query}", "customer")
        assert answer.status_code == 422, answer.text

    def test_row_53_a_trail_backwards_in_time(self, judge: Judge) -> None:
        answer = judge.call("GET", "/api/audit/logs?from=2026-11-21T00:00:00Z&to=2026-11-20T00:00:00Z", "auditor")
        assert answer.status_code == 422

    @pytest.mark.parametrize("keys", FORGED_KEYS, ids=str)
    @pytest.mark.parametrize("path", COLLECTIONS)
    def test_row_51_keys_that_no_row_has(self, judge: Judge, path: str, keys: list[str | int]) -> None:
        """Well-formed cursors, as who has understood them would make them: refused, or a place between rows."""
        path = path.format(broker=judge.world.people["broker"])
        separator = "&" if "?" in path else "?"
        caller = "customer" if path in ("/api/notifications", "/api/api-keys") else "admin"
        answer = judge.call("GET", f"{path}{separator}cursor={encode_cursor(keys)}", caller)
        assert answer.status_code in (200, 422)

    def test_row_51_a_cursor_of_another_collection(self, judge: Judge) -> None:
        cursor = judge.call("GET", "/api/orders?limit=1", "customer").json()["next_cursor"]
        for path in ("/api/assets", "/api/notifications", "/api/reservations"):
            assert judge.call("GET", f"{path}?cursor={cursor}", "customer").status_code == 422, path

    def test_row_115_somebody_elses_cursor_shows_ones_own(self, judge: Judge) -> None:
        cursor = judge.call("GET", "/api/orders?limit=1", "stranger").json()["next_cursor"]
        answer = judge.call("GET", f"/api/orders?cursor={cursor}", "customer")
        mine = judge.world.people["customer"]
        assert answer.status_code == 422 or {order["customer_id"] for order in answer.json()["data"]} <= {mine}

    @pytest.mark.parametrize("text", OPERATORS.values(), ids=OPERATORS.keys())
    @pytest.mark.parametrize("parameter", ["action", "entity_type", "entity_id", "user_id", "from"])
    def test_rows_133_to_136(self, judge: Judge, parameter: str, text: str) -> None:
        """An operator is text that no record holds, or refused."""
        answer = judge.world.client.get(
            "/api/audit/logs", params={parameter: text}, headers=judge.world.credentials("auditor")
        )
        judge.check(answer)
        assert answer.status_code == 422 or answer.json()["data"] == []

    @pytest.mark.parametrize("name", ["read_status[$ne]", "read_status", "$where", "customer_id", "customer_id[$gt]"])
    def test_row_136_an_operator_for_notifications(self, judge: Judge, name: str) -> None:
        headers = judge.world.credentials("customer")
        answer = judge.world.client.get("/api/notifications", params={name: '{"$ne":null}'}, headers=headers)
        judge.check(answer)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-field")

    @pytest.mark.parametrize("name", ["action[$ne]", "entity_id[$regex]", "$where", "a.b"])
    def test_row_136_an_operator_as_a_name(self, judge: Judge, name: str) -> None:
        answer = judge.world.client.get(
            "/api/audit/logs", params={name: "1"}, headers=judge.world.credentials("auditor")
        )
        judge.check(answer)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-field")


class TestThings:
    def test_row_66_an_unknown_asset(self, judge: Judge) -> None:
        body = {**ORDER, "size": "1", "asset_name": "NOSUCH"}
        assert judge.call("POST", "/api/orders", "customer", json=body).status_code == 422

    def test_row_65_a_client_order_id_of_other_terms(self, judge: Judge) -> None:
        body = {**ORDER, "size": "2", "client_order_id": "read"}
        answer = judge.call("POST", "/api/orders", "customer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "client-order-id-reused")

    def test_row_79_more_than_there_is(self, judge: Judge) -> None:
        body = {**TRANSFER, "amount": "999999999"}
        answer = judge.call("POST", "/api/assets/withdraw", "customer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "insufficient-funds")

    @pytest.mark.parametrize(
        "path", ["/api/orders/{}", "/api/orders/{}/events", "/api/sagas/{}", "/api/dead-letters/asset_service/{}"]
    )
    @pytest.mark.parametrize("text", ["x", "' OR 1=1--", "%00", "..%2f..", "0" * 400, "{$ne:1}", "%F0%9F%92%A3"])
    def test_row_113_what_is_no_id(self, judge: Judge, path: str, text: str) -> None:
        caller = "customer" if "orders" in path else "admin"
        answer = judge.call("GET", path.format(text), caller)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")

    @pytest.mark.parametrize("path", OTHER_SPELLINGS.values(), ids=OTHER_SPELLINGS.keys())
    def test_rows_120_to_122(self, judge: Judge, path: str) -> None:
        answer = judge.call("GET", path, "customer")
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")

    @pytest.mark.parametrize("text", ["a" * 10_000 + "!", "1" * 10_000, "9." * 5_000, "A" * 16 + " " * 10_000])
    def test_row_180_no_pattern_backtracks(self, judge: Judge, text: str) -> None:
        """One that did would not come back from this."""
        body = {**ORDER, "size": text, "price": text, "client_order_id": text, "asset_name": text}
        answer = judge.call("POST", "/api/orders", "customer", json=body)
        assert len(answer.json()["errors"]) == 4


class TestProblemPages:
    def test_each_slug_is_explained(self, judge: Judge) -> None:
        codes = sorted(known_errors())
        assert {"not-found", "method-not-allowed", "uri-too-long", "headers-too-large", "internal-error"} <= set(codes)
        for code in codes:
            page = judge.call("GET", f"/problems/{code}", None)
            assert page.status_code == 200, code
            assert code in page.text
            assert len(page.text) > 150, code

    def test_made_up_ones_are_not(self, judge: Judge) -> None:
        assert judge.call("GET", "/problems/made-up", None).status_code == 404
