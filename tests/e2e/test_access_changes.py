"""Who may do what changes within five seconds in every service, over HTTP and with the tokens of before."""

import time
from typing import Any

import pytest
import redis

from tests.e2e.system import PASSWORD, System, User

EFFECTIVE_SECONDS = 5.0
FOR_ADMINS = (
    "/api/customers",
    "/api/orders?customer_id=1",
    "/api/assets?customer_id=1",
    "/api/sagas",
    "/api/dead-letters/notifier",
    "/api/audit/logs",
)
"""One of each service: an admin gets an answer, a customer 403, or 404 where he asks for what is another's."""
REFUSED = {403, 404}


def statuses(user: User) -> set[int]:
    return {user.once("GET", path).status_code for path in FOR_ADMINS}


def takes_effect(user: User, expected: set[int], within: float = EFFECTIVE_SECONDS) -> float:
    """Seconds until every service answers so; infinity if it takes longer than `within`."""
    started = time.monotonic()
    while not statuses(user) <= expected:
        if time.monotonic() - started > within:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - started


def change(system: System, user: User, **values: Any) -> None:
    answer = system.admin.request("PATCH", f"/api/customers/{user.id}", json=values)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def colleague(system: System) -> User:
    """Known to every service."""
    user = system.customer()
    assert takes_effect(user, REFUSED) <= EFFECTIVE_SECONDS
    return user


class TestWithinFiveSeconds:
    def test_a_new_role_counts_and_the_old_one_again(self, system: System, colleague: User) -> None:
        change(system, colleague, role="ADMIN")
        assert takes_effect(colleague, {200}) <= EFFECTIVE_SECONDS
        change(system, colleague, role="CUSTOMER")
        assert takes_effect(colleague, REFUSED) <= EFFECTIVE_SECONDS

    def test_a_deactivated_customer_is_nobody(self, system: System, colleague: User) -> None:
        change(system, colleague, active=False)
        assert takes_effect(colleague, {401}) <= EFFECTIVE_SECONDS
        form = {"grant_type": "password", "username": colleague.username, "password": PASSWORD}
        assert system.client.post("/api/auth/token", data=form).status_code == 401

    def test_a_session_that_was_signed_out_is_nobodys_also_when_valkey_forgets(
        self, system: System, colleague: User
    ) -> None:
        other = User(system.client, colleague.username, PASSWORD)
        colleague.sign_out()
        assert statuses(colleague) == {401}
        redis.Redis.from_url(system.urls["redis"]).flushdb()
        # What the flush took from the queue comes again when the relay's lease is over, two seconds here.
        assert takes_effect(colleague, {401}, within=10) <= 10
        assert statuses(other) <= REFUSED
