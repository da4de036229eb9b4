"""A world that is there to be mistreated, and what it has stored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import redis

from infra.servers import DATABASES
from processor.endpoints import matching
from shared.auth.principals import CachedDirectory, Principal
from tests.integration.world import World, open_world

# Refused, these still leave something by design: who failed to sign in is on record, wrong codes are counted.
LEAVES_A_TRACE = frozenset(
    {"issue_token", "change_password", "create_api_key", "enroll_totp", "activate_totp", "prove_totp", "remove_totp"}
)
CREDENTIALS = "customer_service"


class Stored:
    """How many rows every table of the four databases has."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._connections = {
            service: psycopg.connect(environment[variable], autocommit=True)
            for service, (_, variable, _) in DATABASES.items()
        }
        self._queries = {service: _count_all(connection) for service, connection in self._connections.items()}

    def rows(self, *, but: str | None = None) -> dict[str, tuple[Any, ...] | None]:
        return {
            service: connection.execute(self._queries[service]).fetchone()
            for service, connection in self._connections.items()
            if service != but
        }

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def _count_all(connection: psycopg.Connection[Any]) -> str:
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
    return "SELECT " + ", ".join(f'(SELECT count(*) FROM "{name}")' for (name,) in tables)


@dataclass
class Judge:
    """Sends requests and holds every answer to what is true of all; counts them by status."""

    world: World
    stored: Stored
    valkey: Any
    seen: dict[int, int] = field(default_factory=dict)

    def check(self, answer: Any, *, operation: str = "", before: Any = None) -> None:
        """Args:
        before: what was stored before the request.
        """
        self.seen[answer.status_code] = self.seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "X-RateLimit-Limit" in answer.headers
        if answer.status_code < 400:
            return
        self.check_problem(answer)
        if before is not None:
            assert self.rows(operation) == before, "a refused request was stored"

    def check_problem(self, answer: Any) -> None:
        assert answer.headers["Content-Type"] == "application/problem+json", answer.text
        problem = answer.json()
        assert {"type", "title", "status", "detail", "instance", "code", "message"} <= problem.keys()
        assert problem["type"] == f"/problems/{problem['code']}"
        assert problem["status"] == answer.status_code
        assert problem["instance"] == answer.headers["X-Correlation-ID"]
        assert (answer.status_code == 422) <= bool(problem.get("errors"))
        assert "Allow" in answer.headers or answer.status_code != 405
        assert "WWW-Authenticate" in answer.headers or answer.status_code != 401

    def rows(self, operation: str) -> Any:
        return self.stored.rows(but=CREDENTIALS if operation in LEAVES_A_TRACE else None)

    def call(self, method: str, path: str, caller: str | None, **options: Any) -> Any:
        """The answer to a request, which is checked; a refused one has left nothing."""
        before = self.stored.rows()
        answer = self.world.request(method, path, caller, **options)
        self.check(answer, before=before)
        return answer


@pytest.fixture(scope="session")
def mistreated(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(servers, tmp_path_factory.mktemp("bad-inputs")) as world:
        world.resources["order_service"].instruments._arrival_seconds = 0.0
        yield world


@pytest.fixture(autouse=True)
def _nobody_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody is worth waiting for; in this directory's tests only."""
    monkeypatch.setattr(CachedDirectory, "wait_for", _do_not_wait)
    monkeypatch.setattr(matching, "_ARRIVAL_SECONDS", 0.0)


def _do_not_wait(directory: CachedDirectory, customer: int | str, timeout_seconds: float = 0.0) -> Principal | None:
    return directory.get(customer)


@pytest.fixture(scope="session")
def _judge(mistreated: World) -> Iterator[Judge]:
    stored = Stored(mistreated.environment)
    yield Judge(mistreated, stored, redis.Redis.from_url(mistreated.environment["BROKAGE_REDIS_URL"]))
    stored.close()


@pytest.fixture
def judge(_judge: Judge) -> Judge:
    """With full buckets."""
    _judge.valkey.flushdb()
    return _judge
