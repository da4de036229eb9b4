"""Deposits and withdrawals over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from shared.auth.permissions import Role
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.worlds import reserve


def body(customer_id: int, amount: str = "100.5", **values: Any) -> dict[str, Any]:
    return {"customer_id": customer_id, "asset_name": "TRY", "amount": amount, "reference": new_id(), **values}


class TestDeposit:
    def test_admin_deposits_and_it_is_said_with_before_and_after(self, api: Api, admin: int) -> None:
        customer = api.customer(TRY="10")
        sent = body(customer)
        answer = api.request("POST", "/api/assets/deposit", admin, json=sent)
        assert answer.status_code == 201, answer.text
        transfer = answer.json()
        assert transfer["kind"] == "DEPOSIT"
        assert (transfer["amount"], transfer["reference"], transfer["placed_by"]) == ("100.5", sent["reference"], admin)
        assert api.balance(customer, "TRY") == (Decimal("110.5"), Decimal("110.5"))
        [event] = api.answers(transfer["id"], reader="auditor")
        assert event["type"] == "FundsDeposited"
        assert event["payload"]["before"] == {"size": "10", "usable_size": "10"}
        assert event["payload"]["after"] == {"size": "110.5", "usable_size": "110.5"}
        assert event["actor"] == {"id": admin, "role": "ADMIN", "on_behalf_of": customer}
        assert len(api.answers(transfer["id"], reader="notifier")) == 1
        entries = api.query(
            "SELECT account_id, amount FROM ledger_entries WHERE tx_ref = %s ORDER BY amount",
            f"deposit:{transfer['id']}",
        )
        assert entries == [("external:TRY", Decimal("-100.5")), (f"customer:{customer}:TRY", Decimal("100.5"))]

    def test_identical_repeat_of_a_reference_returns_the_first(self, api: Api, admin: int) -> None:
        customer = api.customer()
        sent = body(customer, "100.50")
        first = api.request("POST", "/api/assets/deposit", admin, json=sent)
        again = api.request("POST", "/api/assets/deposit", admin, json={**sent, "amount": "100.5"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert api.balance(customer, "TRY")[0] == Decimal("100.5")

    def test_another_body_under_a_reference_is_refused(self, api: Api, admin: int) -> None:
        customer = api.customer()
        sent = body(customer)
        api.request("POST", "/api/assets/deposit", admin, json=sent)
        for change in ({"amount": "1"}, {"asset_name": "AAPL"}):
            answer = api.request("POST", "/api/assets/deposit", admin, json={**sent, **change})
            assert (answer.status_code, answer.json()["code"]) == (409, "reference-reused")
        other = api.request("POST", "/api/assets/deposit", admin, json={**sent, "customer_id": api.customer()})
        assert other.status_code == 201

    def test_repeated_key_returns_the_first_with_its_status(self, api: Api, admin: int) -> None:
        customer, headers = api.customer(), {"Idempotency-Key": new_id()}
        sent = body(customer)
        first = api.request("POST", "/api/assets/deposit", admin, json=sent, headers=headers)
        for flush in (False, True):
            if flush:
                api.valkey.flushdb()
            again = api.request("POST", "/api/assets/deposit", admin, json=sent, headers=headers)
            assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
            assert again.json() == first.json()
        reused = api.request("POST", "/api/assets/deposit", admin, json=body(customer), headers=headers)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
        assert api.balance(customer, "TRY")[0] == Decimal("100.5")

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"asset_name": "NOPE"}, "/asset_name"),
            ({"amount": "0.000000001"}, "/amount"),
            ({"asset_name": "AAPL", "amount": "0.0000001"}, "/amount"),
            ({"amount": "0"}, "/amount"),
            ({"amount": "-1"}, "/amount"),
            ({"amount": 5}, "/amount"),
            ({"amount": "1e3"}, "/amount"),
            ({"reference": "has space"}, "/reference"),
            ({"customer_id": 2**62}, "/customer_id"),
        ],
    )
    def test_a_value_that_cannot_be_is_named(self, api: Api, admin: int, change: dict[str, Any], pointer: str) -> None:
        answer = api.request("POST", "/api/assets/deposit", admin, json={**body(api.customer()), **change})
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    def test_a_balance_that_could_not_be_held_is_refused(self, api: Api, admin: int) -> None:
        customer = api.customer()
        amount = "9" * 18
        for _ in range(2):
            assert api.request("POST", "/api/assets/deposit", admin, json=body(customer, amount)).status_code == 201
        with_room = 10**20 // (10**18)
        statuses = [
            api.request("POST", "/api/assets/deposit", admin, json=body(customer, amount)).status_code
            for _ in range(with_room)
        ]
        assert statuses[-1] == 422
        assert api.balance(customer, "TRY")[0] < 10**20

    def test_who_may(self, api: Api, admin: int) -> None:
        broker = api.customer(Role.BROKER)
        his, other = api.customer(brokers=(broker,)), api.customer()
        assert api.request("POST", "/api/assets/deposit", broker, json=body(his)).status_code == 201
        assert api.request("POST", "/api/assets/deposit", broker, json=body(other)).status_code == 422
        assert api.request("POST", "/api/assets/deposit", his, json=body(his)).status_code == 403
        assert api.request("POST", "/api/assets/deposit", json=body(his)).status_code == 401
        without = {name: value for name, value in body(his).items() if name != "reference"}
        missing = api.request("POST", "/api/assets/deposit", admin, json=without)
        assert (missing.status_code, missing.json()["code"]) == (400, "idempotency-key-missing")

    def test_the_same_reference_at_once_from_many_is_one_deposit(self, api: Api, admin: int) -> None:
        sent = body(api.customer())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: api.request("POST", "/api/assets/deposit", admin, json=sent), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert api.balance(sent["customer_id"], "TRY")[0] == Decimal("100.5")


class TestWithdraw:
    def test_customer_withdraws_his_own(self, api: Api) -> None:
        customer = api.customer(TRY="100")
        sent = {"asset_name": "TRY", "amount": "40", "reference": new_id()}
        answer = api.request("POST", "/api/assets/withdraw", customer, json=sent)
        assert (answer.status_code, answer.json()["kind"]) == (201, "WITHDRAWAL")
        assert api.balance(customer, "TRY") == (60, 60)
        again = api.request("POST", "/api/assets/withdraw", customer, json=sent)
        assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
        assert api.balance(customer, "TRY") == (60, 60)

    def test_what_orders_block_cannot_be_withdrawn_and_a_refusal_leaves_nothing(self, api: Api) -> None:
        customer = api.customer(TRY="100")
        api.handle(reserve(new_id(), customer, "BUY", "1", "70"))
        sent = {"asset_name": "TRY", "amount": "30.00000001", "reference": new_id()}
        key = {"Idempotency-Key": new_id()}
        answer = api.request("POST", "/api/assets/withdraw", customer, json=sent, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "insufficient-funds")
        assert api.query("SELECT count(*) FROM transfers WHERE customer_id = %s AND kind = 'WITHDRAWAL'", customer) == [
            (0,)
        ]
        sent["amount"] = "30"
        assert api.request("POST", "/api/assets/withdraw", customer, json=sent, headers=key).status_code == 201
        assert api.balance(customer, "TRY") == (70, 0)

    def test_falling_below_a_tenth_is_said(self, api: Api) -> None:
        customer = api.customer(TRY="100")
        api.handle(reserve(new_id(), customer, "BUY", "1", "80"))
        sent = {"asset_name": "TRY", "amount": "15", "reference": new_id()}
        api.request("POST", "/api/assets/withdraw", customer, json=sent)
        [event] = api.answers(f"{customer}:TRY", reader="notifier")
        assert (event["type"], event["payload"]["usable_size"]) == ("LowBalance", "5")

    def test_who_may(self, api: Api, admin: int) -> None:
        broker = api.customer(Role.BROKER)
        customer = api.customer(brokers=(broker,), TRY="100")
        sent = body(customer, "1")
        assert api.request("POST", "/api/assets/withdraw", broker, json=sent).status_code == 403
        assert api.request("POST", "/api/assets/withdraw", api.customer(TRY="5"), json=sent).status_code == 422
        assert api.request("POST", "/api/assets/withdraw", admin, json=sent).status_code == 201

    def test_many_at_once_never_take_more_than_there_is(self, api: Api) -> None:
        customer = api.customer(TRY="100")

        def one(_: int) -> int:
            sent = {"asset_name": "TRY", "amount": "10", "reference": new_id()}
            status: int = api.request("POST", "/api/assets/withdraw", customer, json=sent).status_code
            return status

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(one, range(16)))
        assert sorted(statuses) == [201] * 10 + [422] * 6
        assert api.balance(customer, "TRY") == (0, 0)


class TestListTransfers:
    def test_newest_first_in_pages(self, api: Api, admin: int) -> None:
        customer = api.customer()
        ids = [api.request("POST", "/api/assets/deposit", admin, json=body(customer)).json()["id"] for _ in range(5)]
        seen, cursor = [], ""
        while cursor is not None:
            query = f"/api/transfers?customer_id={customer}&limit=2" + (f"&cursor={cursor}" if cursor else "")
            page = api.request("GET", query, admin).json()
            seen += [row["id"] for row in page["data"]]
            cursor = page["next_cursor"]
        assert seen == ids[::-1]
        assert api.request("GET", "/api/transfers", customer).status_code == 403
        assert api.request("GET", "/api/transfers?cursor=bm90IG91cnM", admin).status_code == 422
