"""Signing in, rotating, signing out, changing the password."""

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from argon2 import PasswordHasher, extract_parameters

from customer_service.passwords import Passwords
from customer_service.settings import Settings
from tests.integration.customer_service.conftest import PASSWORD, Api, Person


def refresh(api: Api, token: str) -> Any:
    return api.client.post("/api/auth/token", data={"grant_type": "refresh_token", "refresh_token": token})


def me(api: Api, access_token: str) -> int:
    status: int = api.client.get("/api/me", headers={"Authorization": f"Bearer {access_token}"}).status_code
    return status


class TestSignIn:
    def test_gives_tokens_that_work_and_says_so(self, api: Api, customer: Person) -> None:
        answer = api.sign_in(customer.username)
        assert answer.status_code == 200
        body = answer.json()
        assert set(body) == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
        assert answer.headers["Cache-Control"] == "no-store"
        known = api.client.get("/api/me", headers={"Authorization": f"Bearer {body['access_token']}"}).json()
        assert known == {
            "customer_id": customer.id,
            "username": customer.username,
            "role": "CUSTOMER",
            "tier": "STANDARD",
        }
        event = api.events(customer.id)[-1]
        assert (event["type"], event["actor"]) == ("UserSignedIn", {"id": customer.id, "role": "CUSTOMER"})

    def test_wrong_password_and_unknown_user_get_the_same_answer(self, api: Api, customer: Person) -> None:
        wrong = api.sign_in(customer.username, "wrong horse")
        unknown = api.sign_in("nobody-at-all", "wrong horse")
        hidden = {"instance"}
        assert wrong.status_code == unknown.status_code == 401
        assert {k: v for k, v in wrong.json().items() if k not in hidden} == {
            k: v for k, v in unknown.json().items() if k not in hidden
        }
        assert "WWW-Authenticate" in wrong.headers
        event = api.events(customer.id)[-1]
        assert (event["type"], event["payload"]["reason"]) == ("SignInFailed", "credentials")
        assert customer.username not in str(event)

    def test_a_name_that_nobody_has_takes_the_same_path(
        self, api: Api, customer: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its time is measured by measure_sign_in.py; here by what is done: which statements, and what a hash costs."""
        done: list[str] = []
        execute, verify = psycopg.Connection.execute, PasswordHasher.verify

        def executing(connection: Any, query: Any, *args: Any, **options: Any) -> Any:
            # What runs by the clock, in a thread of its own or once a second, is nobody's sign-in.
            if "backlog" not in threading.current_thread().name and "clock_offset" not in str(query):
                done.append(str(query))
            return execute(connection, query, *args, **options)

        def verifying(hasher: Any, stored: str, password: Any) -> Any:
            done.append(f"hash {extract_parameters(stored)}")
            return verify(hasher, stored, password)

        def steps(username: str) -> list[str]:
            done.clear()
            assert api.sign_in(username, "wrong horse").status_code == 401
            return done[:]

        monkeypatch.setattr(psycopg.Connection, "execute", executing)
        monkeypatch.setattr(PasswordHasher, "verify", verifying)
        known, unknown = steps(customer.username), steps("nobody-at-all")
        assert known == unknown
        assert sum(step.startswith("hash ") for step in known) == 1
        assert any("INSERT INTO sign_in_failures" in step for step in known)
        assert any("INSERT INTO outbox_events" in step for step in known)

    def test_failures_slow_an_account_but_its_owner_gets_in(self, api: Api, customer: Person) -> None:
        for _ in range(5):
            api.sign_in(customer.username, "wrong horse")
        started = time.monotonic()
        assert api.sign_in(customer.username).status_code == 200
        assert 0.5 <= time.monotonic() - started < 3
        started = time.monotonic()
        assert api.sign_in(customer.username).status_code == 200  # success has cleared the count
        assert time.monotonic() - started < 0.5

    def test_sixty_failures_a_minute_from_an_address_and_no_more(self, api: Api, customer: Person) -> None:
        for number in range(60):
            assert api.sign_in(f"nobody-{number}", "wrong horse").status_code == 401
        refused = api.sign_in(customer.username)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60

    def test_nor_do_more_fail_when_all_come_at_once(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        # At real costs, so that the last has come long before the sixtieth was hashed.
        costly = Settings(customers_database_url=api.database_url, argon2_time_cost=2, argon2_memory_kib=19_456)
        monkeypatch.setattr(api.resources, "passwords", Passwords(costly))
        with ThreadPoolExecutor(120) as pool:
            answers = list(pool.map(lambda number: api.sign_in(f"nobody-{number}", "wrong horse"), range(120)))
        found = Counter(answer.status_code for answer in answers)
        # Two are hashed at a time: the second may have been let in just before the first was counted.
        assert found[401] in (60, 61)
        assert found[401] + found[429] == 120

    @pytest.mark.parametrize(
        ("form", "status"),
        [
            ({}, 422),
            ({"grant_type": "password"}, 422),
            ({"grant_type": "client_credentials"}, 422),
            ({"grant_type": "password", "username": "a", "password": "b", "otp": "1"}, 422),
            ({"grant_type": "password", "username": "nul\x00", "password": "b"}, 422),
            ({"grant_type": "password", "username": ["a", "b"], "password": "b"}, 422),
            ({"grant_type": "password", "username": "x" * 5000, "password": "b"}, 422),
            ({"grant_type": "password", "username": "' OR 1=1--", "password": "b"}, 401),
            ({"grant_type": "password", "username": "ünï", "password": "\ud7ff\ue000"}, 401),
        ],
    )
    def test_forms_are_read_strictly(self, api: Api, form: dict[str, Any], status: int) -> None:
        assert api.client.post("/api/auth/token", data=form).status_code == status

    def test_json_is_no_form(self, api: Api) -> None:
        assert api.client.post("/api/auth/token", json={"grant_type": "password"}).status_code == 415

    def test_invalid_utf8_in_a_form(self, api: Api) -> None:
        answer = api.client.post(
            "/api/auth/token",
            content=b"grant_type=password&username=%ff&password=x",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code == 422


class TestRefresh:
    def test_rotates(self, api: Api, customer: Person) -> None:
        first = api.sign_in(customer.username).json()
        second = refresh(api, first["refresh_token"]).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert me(api, second["access_token"]) == 200
        assert refresh(api, second["refresh_token"]).status_code == 200

    def test_reuse_ends_the_whole_session(self, api: Api, customer: Person) -> None:
        first = api.sign_in(customer.username).json()
        second = refresh(api, first["refresh_token"]).json()
        reused = refresh(api, first["refresh_token"])
        assert (reused.status_code, reused.json()["code"]) == (401, "token-reused")
        assert refresh(api, second["refresh_token"]).status_code == 401
        assert me(api, second["access_token"]) == 401
        assert api.events(customer.id)[-1]["payload"]["reason"] == "refresh_token_reused"

    def test_reuse_leaves_other_sessions_alone(self, api: Api, customer: Person) -> None:
        other = api.sign_in(customer.username).json()
        first = api.sign_in(customer.username).json()
        refresh(api, first["refresh_token"])
        refresh(api, first["refresh_token"])
        assert me(api, other["access_token"]) == 200
        assert refresh(api, other["refresh_token"]).status_code == 200

    def test_two_at_once_at_most_one_gets_a_token(self, api: Api, customer: Person) -> None:
        token = api.sign_in(customer.username).json()["refresh_token"]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: refresh(api, token), range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 401]

    def test_expired_by_the_movable_clock(self, api: Api, customer: Person) -> None:
        token = api.sign_in(customer.username).json()["refresh_token"]
        api.execute("UPDATE clock_offset SET value = '25 hours'")
        try:
            assert refresh(api, token).json()["code"] == "invalid-refresh-token"
        finally:
            api.execute("UPDATE clock_offset SET value = '0'")

    def test_however_often_it_is_rotated_a_session_ends(self, api: Api, customer: Person) -> None:
        token = api.sign_in(customer.username).json()["refresh_token"]
        try:
            for hours in range(23, 30 * 24, 23):
                api.execute("UPDATE clock_offset SET value = make_interval(hours => %s)", hours)
                token = refresh(api, token).json()["refresh_token"]
            api.execute("UPDATE clock_offset SET value = '30 days 1 minute'")
            assert refresh(api, token).json()["code"] == "invalid-refresh-token"
        finally:
            api.execute("UPDATE clock_offset SET value = '0'")

    def test_made_up_and_access_tokens_are_no_refresh_tokens(self, api: Api, customer: Person) -> None:
        access = api.sign_in(customer.username).json()["access_token"]
        for token in ("made-up", access):
            assert refresh(api, token).status_code == 401

    def test_a_refresh_token_is_no_access_token(self, api: Api, customer: Person) -> None:
        assert me(api, api.sign_in(customer.username).json()["refresh_token"]) == 401


class TestSignOut:
    @pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
    def test_ends_this_session_only(self, api: Api, customer: Person, kind: str) -> None:
        other = api.sign_in(customer.username).json()
        session = api.sign_in(customer.username).json()
        assert api.client.post("/api/auth/revoke", data={"token": session[kind]}).status_code == 204
        assert me(api, session["access_token"]) == 401
        assert refresh(api, session["refresh_token"]).status_code == 401
        assert me(api, other["access_token"]) == 200

    def test_unknown_token_is_no_error(self, api: Api) -> None:
        assert api.client.post("/api/auth/revoke", data={"token": "made-up"}).status_code == 204
        assert api.client.post("/api/auth/revoke", data={"token": "a.b.c"}).status_code == 204


class TestChangePassword:
    def test_old_tokens_end_and_the_new_password_works(self, api: Api, customer: Person) -> None:
        session = api.sign_in(customer.username).json()
        body = {"current_password": PASSWORD, "new_password": "another good one"}
        assert api.request("POST", "/api/auth/password", customer.username, json=body).status_code == 204
        assert me(api, session["access_token"]) == 401
        assert refresh(api, session["refresh_token"]).status_code == 401
        assert api.sign_in(customer.username).status_code == 401
        renewed = api.sign_in(customer.username, "another good one").json()
        assert me(api, renewed["access_token"]) == 200
        changed = next(event for event in api.events(customer.id) if event["type"] == "CustomerUpdated")
        assert changed["payload"]["after"] == {"password_changed": True}
        assert "another good one" not in str(changed)

    def test_wrong_current_password_changes_nothing(self, api: Api, customer: Person) -> None:
        body = {"current_password": "wrong horse", "new_password": "another good one"}
        answer = api.request("POST", "/api/auth/password", customer.username, json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/current_password"
        assert api.sign_in(customer.username).status_code == 200


class TestKeys:
    def test_jwks_shows_public_halves_only(self, api: Api) -> None:
        [key] = api.client.get("/.well-known/jwks.json").json()["keys"]
        assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("OKP", "Ed25519", "EdDSA", "sig")
        assert "d" not in key

    def test_tokens_of_a_rotated_key_stay_good(self, api: Api, customer: Person) -> None:
        from shared.auth import keys

        old = api.sign_in(customer.username).json()["access_token"]
        kid = keys.rotate(api.resources.key_directory)
        published = time.time() - keys.SIGNS_AFTER_SECONDS
        os.utime(api.resources.key_directory / f"{kid}.pem", (published, published))
        assert keys.load_signing_key(api.resources.key_directory).kid == kid
        time.sleep(2.1)  # it skipped the time in which everybody hears of it; unknown keys are looked for every 2 s
        new = api.sign_in(customer.username).json()["access_token"]
        assert me(api, old) == me(api, new) == 200
        for path in api.resources.key_directory.glob(f"{kid}*"):
            path.unlink()
