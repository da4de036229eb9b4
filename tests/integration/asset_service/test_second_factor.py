"""Withdrawals beyond a limit need a proof of the caller's second factor."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import jwt
import pytest

from shared.auth import tokens
from shared.auth.permissions import Role
from shared.auth.second_factor import issue_proof
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api


@pytest.fixture(autouse=True)
def limit(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(api.resources.settings.second_factor_above, "TRY", Decimal(100))
    yield


@pytest.fixture
def customer(api: Api) -> int:
    return api.customer(TRY="1000", AAPL="1000")


def withdraw(api: Api, customer: int, amount: str, proof: str | None = None, **changes: Any) -> Any:
    body = {"customer_id": customer, "asset_name": "TRY", "amount": amount, "reference": new_id(), **changes}
    headers = {"X-Second-Factor": proof} if proof else {}
    return api.request("POST", "/api/assets/withdraw", changes.pop("caller", customer), json=body, headers=headers)


def code_of(answer: Any) -> str:
    code: str = answer.json().get("code", "")
    return code


class TestTheLimit:
    def test_holds_for_the_sum_of_a_day(self, api: Api, customer: int) -> None:
        assert withdraw(api, customer, "60").status_code == 201
        assert code_of(withdraw(api, customer, "40.01")) == "second-factor-required"
        assert withdraw(api, customer, "40").status_code == 201
        assert code_of(withdraw(api, customer, "0.01")) == "second-factor-required"
        assert api.balance(customer, "TRY") == (Decimal(900), Decimal(900))

    def test_is_of_the_asset_that_is_named(self, api: Api, customer: int) -> None:
        assert withdraw(api, customer, "500", asset_name="AAPL").status_code == 201

    def test_comes_before_what_it_would_tell_of_the_balance(self, api: Api, customer: int) -> None:
        assert code_of(withdraw(api, customer, "5000")) == "second-factor-required"
        proof = issue_proof(api.key, customer)
        assert code_of(withdraw(api, customer, "5000", proof)) == "insufficient-funds"
        assert withdraw(api, customer, "500", proof).status_code == 201  # what was refused took no proof

    def test_is_the_admins_too(self, api: Api, customer: int) -> None:
        admin = api.customer(Role.ADMIN)
        body = {"customer_id": customer, "asset_name": "TRY", "amount": "500", "reference": new_id()}
        for proof, status in ((None, 403), (issue_proof(api.key, customer), 403), (issue_proof(api.key, admin), 201)):
            headers = {"X-Second-Factor": proof} if proof else {}
            answer = api.request("POST", "/api/assets/withdraw", admin, json=body, headers=headers)
            assert answer.status_code == status


class TestAProof:
    def test_is_good_for_one_withdrawal(self, api: Api, customer: int) -> None:
        proof = issue_proof(api.key, customer)
        assert withdraw(api, customer, "500", proof).status_code == 201
        assert code_of(withdraw(api, customer, "400", proof)) == "second-factor-refused"
        assert api.balance(customer, "TRY")[0] == Decimal(500)

    def test_is_taken_once_however_many_come_at_once(self, api: Api, customer: int) -> None:
        proof = issue_proof(api.key, customer)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: withdraw(api, customer, "101", proof).status_code, range(8)))
        assert sorted(answers) == [201] + [403] * 7

    def test_is_not_asked_for_again_by_a_repeat(self, api: Api, customer: int) -> None:
        reference = new_id()
        first = withdraw(api, customer, "500", issue_proof(api.key, customer), reference=reference)
        again = withdraw(api, customer, "500", reference=reference)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])

    @pytest.mark.parametrize(
        "changes",
        [{"aud": "brokage-api"}, {"exp": 1}, {"sub": "1"}, {"jti": "x"}, {"jti": None}, {"iss": "other"}],
        ids=str,
    )
    def test_that_is_none_is_refused(self, api: Api, customer: int, changes: dict[str, Any]) -> None:
        good = jwt.decode(issue_proof(api.key, customer), options={"verify_signature": False})
        claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
        header = {"kid": api.key.kid, "typ": "second-factor+jwt"}
        forged = jwt.encode(claims, api.key.private, algorithm="EdDSA", headers=header)
        assert code_of(withdraw(api, customer, "500", forged)) == "second-factor-refused"

    def test_is_no_access_token_nor_the_other_way_round(self, api: Api, customer: int) -> None:
        access = tokens.issue(api.key, customer_id=customer, session_id="s")
        assert code_of(withdraw(api, customer, "500", access)) == "second-factor-refused"
        bearer = {"Authorization": f"Bearer {issue_proof(api.key, customer)}"}
        assert api.client.get("/api/assets", headers=bearer).status_code == 401
