"""TOTP: set up with the password, confirmed, each code taken once, guessing paused, removed with a proof."""

import base64
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from shared.auth.key_set import directory_key_set
from shared.auth.second_factor import verify_proof
from tests.integration.customer_service.conftest import PASSWORD, Api, Person


def post(api: Api, person: Person, path: str, **body: Any) -> Any:
    return api.request("POST", f"/api/auth/totp{path}", person.username, json=body)


def code(secret: str, steps: int = 0) -> str:
    totp = TOTP(base64.b32decode(secret), 6, SHA1(), 30)
    return totp.generate(int(time.time()) + 30 * steps).decode()


def is_active(api: Api, person: Person) -> bool:
    active: bool = api.request("GET", "/api/auth/totp", person.username).json()["active"]
    return active


@pytest.fixture
def secret(api: Api, customer: Person) -> str:
    """Of a customer whose second factor is active, confirmed by the code of this step."""
    enrolled = post(api, customer, "", current_password=PASSWORD).json()
    assert post(api, customer, "/activate", code=code(enrolled["secret"])).status_code == 204
    return str(enrolled["secret"])


class TestSetUp:
    def test_needs_the_password_and_the_first_code(self, api: Api, customer: Person) -> None:
        assert post(api, customer, "", current_password="wrong horse").status_code == 422
        answer = post(api, customer, "", current_password=PASSWORD)
        assert answer.status_code == 201
        secret = answer.json()["secret"]
        assert answer.json()["otpauth_uri"].startswith("otpauth://totp/Brokage")
        assert not is_active(api, customer)
        assert post(api, customer, "/proof", code=code(secret)).json()["code"] == "wrong-code"
        assert post(api, customer, "/activate", code=code(secret)).status_code == 204
        assert is_active(api, customer)
        assert api.events(customer.id)[-1]["payload"] == {"active": True}

    def test_may_be_begun_again_but_not_over_an_active_one(self, api: Api, customer: Person, secret: str) -> None:
        assert post(api, customer, "", current_password=PASSWORD).json()["code"] == "second-factor-active"

    def test_the_secret_is_stored_sealed_and_said_nowhere(self, api: Api, customer: Person, secret: str) -> None:
        with api.resources.database.read() as connection:
            query = "SELECT * FROM second_factors WHERE customer_id = %(id)s"
            row = connection.execute(query, {"id": customer.id}).fetchone()
        raw = base64.b32decode(secret)
        assert row is not None
        assert secret not in str(row)
        assert raw not in base64.b64decode(row["secret"])
        assert secret not in str(api.events(customer.id))


class TestACode:
    def test_gives_a_proof_once(self, api: Api, customer: Person, secret: str) -> None:
        used, ahead = code(secret), code(secret, 1)  # a clock may be ahead by a step
        assert post(api, customer, "/proof", code=used).json()["code"] == "wrong-code"
        answer = post(api, customer, "/proof", code=ahead)
        assert answer.status_code == 200, answer.text
        assert verify_proof(answer.json()["proof"], customer.id, directory_key_set(api.resources.key_directory))
        for known in (used, ahead):
            assert post(api, customer, "/proof", code=known).json()["code"] == "wrong-code"

    @pytest.mark.parametrize("wrong", ["12345", "1234567", "12345a", "١٢٣٤٥٦", " 12345"])
    def test_is_six_digits(self, api: Api, customer: Person, secret: str, wrong: str) -> None:
        assert post(api, customer, "/proof", code=wrong).json()["code"] == "validation-error"

    def test_is_not_to_be_guessed(self, api: Api, customer: Person, secret: str) -> None:
        wrong = next(each for each in ("000000", "111111") if each not in {code(secret, n) for n in (-1, 0, 1)})
        for _ in range(10):
            assert post(api, customer, "/proof", code=wrong).status_code == 422
        paused = post(api, customer, "/proof", code=code(secret, 1))
        assert (paused.status_code, paused.headers["Retry-After"]) == (429, "900")
        api.execute("UPDATE second_factors SET failed_at = failed_at - interval '16 minutes'")
        assert post(api, customer, "/proof", code=code(secret, 1)).status_code == 200


class TestRemoving:
    def test_needs_a_proof_of_it(self, api: Api, customer: Person, secret: str) -> None:
        refused = api.request("DELETE", "/api/auth/totp", customer.username)
        assert refused.json()["code"] == "second-factor-required"
        proof = post(api, customer, "/proof", code=code(secret, 1)).json()["proof"]
        headers = {"X-Second-Factor": proof}
        assert api.request("DELETE", "/api/auth/totp", customer.username, headers=headers).status_code == 204
        assert not is_active(api, customer)

    def test_an_admin_may_for_who_lost_it(self, api: Api, admin: Person, customer: Person, secret: str) -> None:
        path = f"/api/customers/{customer.id}/totp"
        assert api.request("DELETE", path, customer.username).status_code == 403
        assert api.request("DELETE", path, admin.username).status_code == 204
        assert not is_active(api, customer)
