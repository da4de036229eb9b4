"""Instruments, balances, reservations and the ledger over HTTP."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest

from asset_service.service import instruments, verification
from shared.auth.permissions import Role
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.worlds import release, reserve, settle


def name() -> str:
    return "X" + new_id().replace("-", "").upper()[-10:]


class TestPutInstrument:
    def test_admin_defines_and_halts_and_readers_are_told(self, api: Api, admin: int) -> None:
        asset_name = name()
        sent = {"quote_asset": "TRY", "size_scale": 4, "price_scale": 2}
        answer = api.request("PUT", f"/api/instruments/{asset_name}", admin, json=sent)
        assert answer.status_code == 200, answer.text
        assert {**sent, "asset_name": asset_name, "status": "TRADING", "quote_scale": 8, "version": 1}.items() <= (
            answer.json().items()
        )
        halted = api.request("PUT", f"/api/instruments/{asset_name}", admin, json={**sent, "status": "HALTED"})
        assert (halted.json()["status"], halted.json()["version"]) == ("HALTED", 2)
        again = api.request("PUT", f"/api/instruments/{asset_name}", admin, json={**sent, "status": "HALTED"})
        assert again.json()["version"] == 2
        events = api.answers(asset_name, reader="order_service")
        assert [event.get("aggregate_version", 1) for event in events] == [1, 2]
        assert events[1]["payload"]["before"] == {"status": "TRADING"}
        assert events[1]["payload"]["after"] == {"status": "HALTED"}
        assert len(api.answers(asset_name, reader="auditor")) == 2
        assert api.request("GET", f"/api/instruments/{asset_name}", api.customer()).json() == halted.json()

    @pytest.mark.parametrize(
        ("sent", "pointer"),
        [
            ({"quote_asset": "TRY", "size_scale": 7, "price_scale": 2}, "/size_scale"),
            ({"quote_asset": "NOPE", "size_scale": 1, "price_scale": 1}, "/quote_asset"),
            ({"quote_asset": "AAPL", "size_scale": 1, "price_scale": 1}, "/quote_asset"),
            ({"size_scale": 8, "price_scale": 1}, "/price_scale"),
            ({"size_scale": 19}, "/size_scale"),
            ({"size_scale": "2"}, "/size_scale"),
            ({"quote_asset": "TRY", "size_scale": 1, "status": "CLOSED"}, "/status"),
        ],
    )
    def test_what_cannot_be_is_named(self, api: Api, admin: int, sent: dict[str, Any], pointer: str) -> None:
        answer = api.request("PUT", f"/api/instruments/{name()}", admin, json=sent)
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    def test_cash_keeps_the_decimals_that_its_instruments_need(self, api: Api, admin: int) -> None:
        cash, share = name(), name()
        api.request("PUT", f"/api/instruments/{cash}", admin, json={"size_scale": 6})
        api.request(
            "PUT", f"/api/instruments/{share}", admin, json={"quote_asset": cash, "size_scale": 4, "price_scale": 2}
        )
        assert api.request("PUT", f"/api/instruments/{cash}", admin, json={"size_scale": 5}).status_code == 422
        assert api.request("PUT", f"/api/instruments/{cash}", admin, json={"size_scale": 7}).status_code == 200
        last = api.answers(share, reader="processor")[-1]
        assert (last["payload"]["quote_scale"], last["aggregate_version"]) == (7, 2)
        moved = api.request(
            "PUT", f"/api/instruments/{share}", admin, json={"quote_asset": "TRY", "size_scale": 4, "price_scale": 2}
        )
        assert (moved.status_code, moved.json()["code"]) == (409, "quote-asset-fixed")

    def test_is_for_admins(self, api: Api) -> None:
        answer = api.request("PUT", f"/api/instruments/{name()}", api.customer(Role.BROKER), json={"size_scale": 2})
        assert answer.status_code == 403

    def test_republish_tells_projections_and_not_the_auditor(self, api: Api) -> None:
        audited, read = (len(api.answers("AAPL", reader=reader)) for reader in ("auditor", "processor"))
        assert api.handlers.run(instruments.republish) >= 4
        assert len(api.answers("AAPL", reader="auditor")) == audited
        assert len(api.answers("AAPL", reader="processor")) == read + 1

    def test_list_in_pages(self, api: Api) -> None:
        customer = api.customer()
        first = api.request("GET", "/api/instruments?limit=1", customer).json()
        second = api.request("GET", f"/api/instruments?limit=200&cursor={first['next_cursor']}", customer).json()
        names = [row["asset_name"] for row in first["data"] + second["data"]]
        assert names == sorted(names)
        assert {"TRY", "AAPL", "GOOGL", "HLT"} <= set(names)


class TestAssets:
    def test_own_and_assigned_and_nobody_elses(self, api: Api, admin: int) -> None:
        broker = api.customer(Role.BROKER)
        his, other = api.customer(brokers=(broker,), TRY="5", AAPL="1.5"), api.customer(TRY="7")
        listed = api.request("GET", "/api/assets", his).json()["data"]
        assert [(row["asset_name"], row["size"], row["usable_size"]) for row in listed] == [
            ("AAPL", "1.5", "1.5"),
            ("TRY", "5", "5"),
        ]
        assert api.request("GET", f"/api/assets/{his}/TRY", broker).json()["size"] == "5"
        assert api.request("GET", f"/api/assets?customer_id={his}", broker).json()["data"] == listed
        assert api.request("GET", f"/api/assets/{other}/TRY", broker).status_code == 404
        assert api.request("GET", f"/api/assets?customer_id={other}", his).status_code == 404
        assert api.request("GET", f"/api/assets/{his}/GOOGL", his).status_code == 404
        everybody = api.request("GET", "/api/assets?limit=200", admin).json()
        assert len({row["customer_id"] for row in everybody["data"]}) > 1

    def test_reservations_without_refusals(self, api: Api) -> None:
        customer = api.customer(TRY="100")
        good, refused = new_id(), new_id()
        api.handle(reserve(good, customer, "BUY", "1", "60"), reserve(refused, customer, "BUY", "1", "60"))
        [row] = api.request("GET", "/api/reservations", customer).json()["data"]
        assert (row["order_id"], row["amount"], row["remaining"], row["status"]) == (good, "60", "60", "ACTIVE")
        assert api.request("GET", f"/api/reservations?order_id={refused}", customer).json()["data"] == []
        other = api.customer()
        assert api.request("GET", f"/api/reservations?order_id={good}", other).json()["data"] == []
        api.handle(release(good, customer))
        [row] = api.request("GET", f"/api/reservations?order_id={good}", customer).json()["data"]
        assert (row["released"], row["remaining"], row["status"]) == ("60", "0", "RELEASED")


class TestLedger:
    def test_a_customer_sees_his_own_entries_only(self, api: Api, auditor: int) -> None:
        buyer, seller = api.customer(TRY="100"), api.customer(AAPL="1")
        buy, sell, trade = new_id(), new_id(), new_id()
        api.handle(reserve(buy, buyer, "BUY", "1", "50"), reserve(sell, seller, "SELL", "1", "50"))
        api.handle(settle(trade, (buy, buyer), (sell, seller), "1", "50"))
        own = api.request("GET", f"/api/ledger/entries?tx_ref=trade:{trade}", buyer).json()["data"]
        assert {(row["asset_name"], row["amount"], row["customer_id"]) for row in own} == {
            ("TRY", "-50", buyer),
            ("AAPL", "1", buyer),
        }
        everything = api.request("GET", f"/api/ledger/entries?tx_ref=trade:{trade}", auditor).json()["data"]
        assert len(everything) == 4
        assert sum(Decimal(row["amount"]) for row in everything if row["asset_name"] == "TRY") == 0
        seen, cursor = [], ""
        while cursor is not None:
            query = "/api/ledger/entries?limit=1" + (f"&cursor={cursor}" if cursor else "")
            page = api.request("GET", query, buyer).json()
            seen += [row["id"] for row in page["data"]]
            cursor = page["next_cursor"]
        assert len(seen) == len(set(seen)) == 3
        assert api.request("GET", f"/api/ledger/entries?customer_id={seller}", buyer).status_code == 404

    def test_rows_never_change(self, api: Api) -> None:
        api.customer(TRY="1")
        for table in ("ledger_entries", "ledger_transactions"):
            for statement in (
                f"UPDATE {table} SET created_at = created_at",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
            ):
                with (
                    psycopg.connect(api.database_url) as connection,
                    pytest.raises(psycopg.errors.InsufficientPrivilege),
                ):
                    connection.execute(statement)

    def test_verify_counts_and_finds_what_was_tampered_with(self, api: Api, auditor: int) -> None:
        customer = api.customer(TRY="100", AAPL="2")
        good = api.request("GET", "/api/ledger/verify", auditor).json()
        assert good["valid"], good
        assert good["transactions"] >= 2
        assert good["first_bad"] is None
        account, tx = f"customer:{customer}:TRY", "SELECT tx_ref FROM ledger_entries WHERE account_id"
        plants = [
            (
                f"UPDATE ledger_entries SET amount = amount + 1 WHERE account_id = '{account}'",
                f"UPDATE ledger_entries SET amount = amount - 1 WHERE account_id = '{account}'",
                "tx_ref",
            ),
            (
                f"UPDATE ledger_transactions SET digest = reverse(digest) WHERE tx_ref IN ({tx} = '{account}')",
                f"UPDATE ledger_transactions SET digest = reverse(digest) WHERE tx_ref IN ({tx} = '{account}')",
                "tx_ref",
            ),
            (
                f"UPDATE assets SET size = size + 1 WHERE customer_id = {customer} AND asset_name = 'TRY'",
                f"UPDATE assets SET size = size - 1 WHERE customer_id = {customer} AND asset_name = 'TRY'",
                "subject",
            ),
            (
                "INSERT INTO ledger_entries (id, tx_ref, account_id, asset_name, amount)"
                f" VALUES (gen_random_uuid(), 'nowhere', '{account}', 'TRY', 1)",
                "DELETE FROM ledger_entries WHERE tx_ref = 'nowhere'",
                "tx_ref",
            ),
        ]
        for plant, undo, named in plants:
            api.execute(plant)
            try:
                bad = api.request("GET", "/api/ledger/verify", auditor).json()
                assert not bad["valid"]
                assert bad["first_bad"][named], plant
            finally:
                api.execute(undo)
        assert verification.verify_ledger(api.resources.database).valid
        assert api.request("GET", "/api/ledger/verify", customer).status_code == 403


class TestReady:
    def test_once_customers_have_arrived(self, api: Api) -> None:
        api.customer()
        answer = api.client.get("/health/ready")
        assert (answer.status_code, answer.json()["services"]) == (200, {"asset_service": "ready"})
