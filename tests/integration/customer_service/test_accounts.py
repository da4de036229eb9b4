"""Registering and changing customers over HTTP."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.auth.permissions import Role
from tests.integration.customer_service.conftest import Api, Person


def registration(**values: Any) -> dict[str, Any]:
    return {"username": f"new-{secrets.token_hex(6)}", "password": "a good one", **values}


class TestCreateCustomer:
    def test_admin_registers_and_the_customer_signs_in(self, api: Api, admin: Person) -> None:
        body = registration(email=f"{secrets.token_hex(6)}@Example.org", full_name="Ayşe Yılmaz", tier="VIP")
        answer = api.request("POST", "/api/customers", admin.username, json=body)
        assert answer.status_code == 201, answer.text
        created = answer.json()
        assert created["username"] == body["username"]
        assert created["email"] == body["email"].lower()
        assert created["full_name"] == "Ayşe Yılmaz"
        assert created["role"] == "CUSTOMER"
        assert created["beneficial_owner_id"] == created["id"]
        assert "password" not in answer.text
        assert api.sign_in(body["username"], "a good one").status_code == 200

    def test_says_customer_registered_with_the_whole_state_and_no_personal_data_in_after(
        self, api: Api, admin: Person
    ) -> None:
        body = registration(email=f"{secrets.token_hex(6)}@example.org", phone="+905551234567")
        created = api.request("POST", "/api/customers", admin.username, json=body).json()
        [event] = api.events(created["id"])
        assert event["type"] == "CustomerRegistered"
        assert event["actor"] == {"id": admin.id, "role": "ADMIN"}
        payload = event["payload"]
        assert payload["tier_priority"] == 3
        assert payload["rate_limit"] == 100
        assert payload["after"]["phone"].startswith("hmac-sha256:1:")
        assert "+905551234567" not in str(event)

    def test_taken_username_is_refused_and_nothing_is_said(self, api: Api, admin: Person, customer: Person) -> None:
        before = len(api.events(customer.id))
        answer = api.request("POST", "/api/customers", admin.username, json=registration(username=customer.username))
        assert (answer.status_code, answer.json()["code"]) == (409, "username-taken")
        assert len(api.events(customer.id)) == before

    def test_taken_email_is_refused(self, api: Api, admin: Person) -> None:
        email = f"{secrets.token_hex(6)}@example.org"
        api.request("POST", "/api/customers", admin.username, json=registration(email=email))
        answer = api.request("POST", "/api/customers", admin.username, json=registration(email=email.upper()))
        assert (answer.status_code, answer.json()["code"]) == (409, "email-taken")

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"tier": "GOLD"}, "/tier"),
            ({"beneficial_owner_id": 10**15}, "/beneficial_owner_id"),
            ({"beneficial_owner_id": "1"}, "/beneficial_owner_id"),
            ({"username": "Has Space"}, "/username"),
            ({"password": "short"}, "/password"),
            ({"email": "not an address"}, "/email"),
            ({"phone": "05551234567"}, "/phone"),
            ({"full_name": "zero\u200bwidth"}, "/full_name"),
            ({"role": "ROOT"}, "/role"),
            ({"version": 7}, "/version"),
        ],
    )
    def test_a_value_that_cannot_be_is_named(
        self, api: Api, admin: Person, change: dict[str, Any], pointer: str
    ) -> None:
        answer = api.request("POST", "/api/customers", admin.username, json=registration(**change))
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    def test_repeated_key_returns_the_first_customer(self, api: Api, admin: Person) -> None:
        body, headers = registration(), {"Idempotency-Key": secrets.token_hex(8)}
        first = api.request("POST", "/api/customers", admin.username, json=body, headers=headers)
        api.valkey.flushdb()  # by Postgres
        second = api.request("POST", "/api/customers", admin.username, json=body, headers=headers)
        third = api.request("POST", "/api/customers", admin.username, json=body, headers=headers)  # by Valkey
        assert [answer.status_code for answer in (first, second, third)] == [201, 201, 201]
        assert first.json() == second.json() == third.json()
        assert "Idempotent-Replayed" not in first.headers
        assert second.headers["Idempotent-Replayed"] == third.headers["Idempotent-Replayed"] == "true"

    @pytest.mark.parametrize("flushed", [True, False])
    def test_key_of_another_body_is_refused(self, api: Api, admin: Person, flushed: bool) -> None:
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        api.request("POST", "/api/customers", admin.username, json=registration(), headers=headers)
        if flushed:
            api.valkey.flushdb()
        answer = api.request("POST", "/api/customers", admin.username, json=registration(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")

    def test_key_is_free_again_after_a_refusal_and_after_a_day(self, api: Api, admin: Person) -> None:
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        refused = api.request("POST", "/api/customers", admin.username, json=registration(tier="GOLD"), headers=headers)
        assert refused.status_code == 422
        assert api.request("POST", "/api/customers", admin.username, json=registration(), headers=headers).is_success
        api.execute("UPDATE idempotency_records SET created_at = created_at - interval '25 hours'")
        api.valkey.flushdb()
        again = api.request("POST", "/api/customers", admin.username, json=registration(), headers=headers)
        assert again.status_code == 201
        assert "Idempotent-Replayed" not in again.headers

    def test_concurrent_repeats_of_a_key_make_one_customer(self, api: Api, admin: Person) -> None:
        body, headers = registration(), {"Idempotency-Key": secrets.token_hex(8)}
        api.token(admin.username)

        def post(_: int) -> Any:
            return api.request("POST", "/api/customers", admin.username, json=body, headers=headers)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, range(16)))
        good = [answer for answer in answers if answer.status_code == 201]
        assert len({answer.json()["id"] for answer in good}) == 1
        assert {answer.json()["code"] for answer in answers if answer not in good} <= {"idempotency-key-in-use"}
        assert len([answer for answer in good if "Idempotent-Replayed" not in answer.headers]) == 1


class TestUpdateCustomer:
    def test_owner_changes_contact_data_and_clears_it_with_null(self, api: Api, customer: Person) -> None:
        path = f"/api/customers/{customer.id}"
        answer = api.request("PATCH", path, customer.username, json={"phone": "+905551234567", "full_name": "A B"})
        assert answer.status_code == 200, answer.text
        answer = api.request("PATCH", path, customer.username, json={"phone": None})
        assert (answer.json()["phone"], answer.json()["full_name"]) == (None, "A B")
        assert answer.json()["version"] == 3

    def test_changing_nothing_says_nothing(self, api: Api, customer: Person) -> None:
        path = f"/api/customers/{customer.id}"
        for _ in range(2):
            api.request("PATCH", path, customer.username, json={"full_name": "A B"})
        assert [event["type"] for event in api.events(customer.id) if event["type"] != "UserSignedIn"] == [
            "CustomerRegistered",
            "CustomerUpdated",
        ]

    @pytest.mark.parametrize("body", [{"role": "ADMIN"}, {"active": True}, {"tier": "VIP"}, {"version": 1}])
    def test_owner_cannot_change_what_is_not_contact_data(
        self, api: Api, customer: Person, body: dict[str, Any]
    ) -> None:
        answer = api.request("PATCH", f"/api/customers/{customer.id}", customer.username, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-field")

    def test_deactivating_ends_tokens_at_once_here_and_says_so(self, api: Api, admin: Person, customer: Person) -> None:
        session = api.sign_in(customer.username).json()
        answer = api.request("PATCH", f"/api/customers/{customer.id}", admin.username, json={"active": False})
        assert answer.json()["active"] is False
        me = api.client.get("/api/me", headers={"Authorization": f"Bearer {session['access_token']}"})
        assert me.status_code == 401
        assert api.sign_in(customer.username).json()["code"] == "invalid-credentials"
        refresh = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
        assert api.client.post("/api/auth/token", data=refresh).status_code == 401
        deactivated = next(event for event in api.events(customer.id) if event["type"] == "CustomerDeactivated")
        assert deactivated["payload"]["after"] == {"active": False}
        assert deactivated["payload"]["before"] == {"active": True}

    def test_new_role_counts_at_once_for_tokens_issued_before(self, api: Api, admin: Person, customer: Person) -> None:
        assert api.request("GET", "/api/customers", customer.username).status_code == 403
        api.request("PATCH", f"/api/customers/{customer.id}", admin.username, json={"role": "ADMIN"})
        assert api.request("GET", "/api/me", customer.username).json()["role"] == "ADMIN"
        assert api.request("GET", "/api/customers", customer.username).status_code == 200
        api.request("PATCH", f"/api/customers/{customer.id}", admin.username, json={"role": "CUSTOMER"})
        assert api.request("GET", "/api/customers", customer.username).status_code == 403
        changed = [event["type"] for event in api.events(customer.id) if event["type"] == "CustomerRoleChanged"]
        assert len(changed) == 2


class TestSetTier:
    def test_new_tier_is_in_the_event_and_in_the_rate_limit(self, api: Api, admin: Person, customer: Person) -> None:
        path = f"/api/customers/{customer.id}/tier"
        assert api.request("PUT", path, admin.username, json={"tier": "VIP"}).json()["tier"] == "VIP"
        me = api.request("GET", "/api/me", customer.username)
        assert (me.headers["X-RateLimit-Limit"], me.headers["X-Customer-Tier"]) == ("1000", "VIP")
        changed = next(event for event in api.events(customer.id) if event["type"] == "CustomerTierChanged")
        assert (changed["payload"]["rate_limit"], changed["payload"]["tier_priority"]) == (1000, 1)

    def test_same_tier_again_says_nothing(self, api: Api, admin: Person, customer: Person) -> None:
        path = f"/api/customers/{customer.id}/tier"
        assert api.request("PUT", path, admin.username, json={"tier": "STANDARD"}).status_code == 200
        assert [event["type"] for event in api.events(customer.id)] == ["CustomerRegistered"]

    def test_unknown_tier_and_unknown_customer(self, api: Api, admin: Person, customer: Person) -> None:
        bad_tier = api.request("PUT", f"/api/customers/{customer.id}/tier", admin.username, json={"tier": "GOLD"})
        assert bad_tier.status_code == 422
        nobody = api.request("PUT", f"/api/customers/{10**15}/tier", admin.username, json={"tier": "VIP"})
        assert nobody.status_code == 404


class TestReading:
    def test_another_customer_is_not_found(self, api: Api, admin: Person, customer: Person) -> None:
        other = api.customer()
        for path in (f"/api/customers/{other.id}", f"/api/customers/{other.id}/notification-preferences"):
            mine = api.request("GET", path, customer.username)
            nobody = api.request("GET", path.replace(str(other.id), str(10**15)), customer.username)
            assert mine.status_code == nobody.status_code == 404
            hidden = {"instance"}
            assert {k: v for k, v in mine.json().items() if k not in hidden} == {
                k: v for k, v in nobody.json().items() if k not in hidden
            }
            assert api.request("GET", path, admin.username).status_code == 200

    def test_list_pages_through_everybody_once(self, api: Api, admin: Person) -> None:
        for _ in range(3):
            api.customer()
        seen: list[int] = []
        cursor = None
        while True:
            query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            page = api.request("GET", "/api/customers", admin.username, params=query).json()
            seen += [entry["id"] for entry in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) >= 4
        assert seen == sorted(seen)

    @pytest.mark.parametrize("cursor", ["x", "bm90IG91cnM", "WyJhIl0", "W10"])
    def test_forged_cursor(self, api: Api, admin: Person, cursor: str) -> None:
        answer = api.request("GET", "/api/customers", admin.username, params={"cursor": cursor})
        assert answer.status_code == 422

    def test_tiers_are_for_everybody_signed_in(self, api: Api, customer: Person) -> None:
        tiers = api.request("GET", "/api/tiers", customer.username).json()["data"]
        limits = {tier["tier_code"]: tier["rate_limit"] for tier in tiers}
        assert (limits["VIP"], limits["PREMIUM"], limits["STANDARD"]) == (1000, 500, 100)
        assert all(isinstance(tier["fee_rate"], str) for tier in tiers)


class TestPreferences:
    def test_set_read_and_said(self, api: Api, customer: Person) -> None:
        path = f"/api/customers/{customer.id}/notification-preferences"
        body = {"email_enabled": False, "preferences": {"OrderMatched": False}}
        answer = api.request("PUT", path, customer.username, json=body)
        assert answer.status_code == 200, answer.text
        assert api.request("GET", path, customer.username).json() == answer.json()
        event = next(event for event in api.events(customer.id) if event["type"] == "NotificationPreferencesChanged")
        assert event["payload"]["preferences"] == {"OrderMatched": False}
        assert event["payload"]["before"] == {"email_enabled": True, "preferences": {}}
        assert event["aggregate_version"] == 2

    def test_unknown_channel_is_refused(self, api: Api, customer: Person) -> None:
        path = f"/api/customers/{customer.id}/notification-preferences"
        answer = api.request("PUT", path, customer.username, json={"email_enabled": True, "fax_enabled": True})
        assert answer.json()["code"] == "unknown-field"


class TestBrokers:
    def test_assign_list_and_unassign(self, api: Api, admin: Person, broker: Person, customer: Person) -> None:
        path = f"/api/brokers/{broker.id}/customers"
        first = api.request("POST", path, admin.username, json={"customer_id": customer.id})
        second = api.request("POST", path, admin.username, json={"customer_id": customer.id})
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        mine = api.request("GET", path, broker.username).json()["data"]
        assert [entry["id"] for entry in mine] == [customer.id]
        assert api.resources.principals.get(customer.id).brokers == {broker.id}
        assert api.request("DELETE", f"{path}/{customer.id}", admin.username).status_code == 204
        assert api.request("DELETE", f"{path}/{customer.id}", admin.username).status_code == 404
        said = [event for event in api.events(customer.id) if event["type"].startswith("BrokerCustomer")]
        assert [(event["type"], event["payload"].get("brokers", [])) for event in said] == [
            ("BrokerCustomerAssigned", [broker.id]),
            ("BrokerCustomerUnassigned", []),
        ]
        assert [event["aggregate_version"] for event in said] == [2, 3]

    def test_only_customers_are_assigned_and_only_to_brokers(
        self, api: Api, admin: Person, broker: Person, customer: Person
    ) -> None:
        other = api.customer(role=Role.BROKER)
        answer = api.request(
            "POST", f"/api/brokers/{broker.id}/customers", admin.username, json={"customer_id": other.id}
        )
        assert answer.status_code == 422
        answer = api.request(
            "POST", f"/api/brokers/{customer.id}/customers", admin.username, json={"customer_id": customer.id}
        )
        assert answer.status_code == 404

    def test_a_broker_sees_only_himself(self, api: Api, broker: Person) -> None:
        other = api.customer(role=Role.BROKER)
        listed = api.request("GET", "/api/brokers", broker.username).json()["data"]
        assert [entry["id"] for entry in listed] == [broker.id]
        assert api.request("GET", f"/api/brokers/{other.id}/customers", broker.username).status_code == 404

    def test_a_broker_cannot_assign_himself_somebody(self, api: Api, broker: Person, customer: Person) -> None:
        path = f"/api/brokers/{broker.id}/customers"
        assert api.request("POST", path, broker.username, json={"customer_id": customer.id}).status_code == 403

    def test_who_is_no_broker_any_more_acts_for_nobody(
        self, api: Api, admin: Person, broker: Person, customer: Person
    ) -> None:
        path = f"/api/brokers/{broker.id}/customers"
        api.request("POST", path, admin.username, json={"customer_id": customer.id})
        api.request("PATCH", f"/api/customers/{broker.id}", admin.username, json={"role": "CUSTOMER"})
        last = [event for event in api.events(customer.id) if event["type"].startswith("BrokerCustomer")][-1]
        assert last["type"] == "BrokerCustomerUnassigned"
