"""How long it takes until work flows again: one fault at a time under light traffic, and the time until a probe is through.

A probe is two new orders that are confirmed, crossed and settled. For MongoDB it is the moment when everything that waited for it
at its return has arrived.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import psycopg

from infra.faults.client import Session
from infra.faults.history import Outcome, Request
from infra.faults.kinds.broker import flush
from infra.faults.links import Bend
from infra.faults.people import PROBED, surely
from infra.faults.system import NotInTime, wait_until
from infra.faults.world import World
from infra.servers import DATABASES
from shared.ids import new_id

_GIVE_UP_SECONDS = 120.0
_MONGO_AWAY_SECONDS = 6.0
_BETWEEN_SECONDS = (0.5, 1.5)


@dataclass(slots=True)
class Recovery:
    """Samples in seconds, of the faults that had an effect."""

    name: str
    goal: float
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.samples) if self.samples else float("nan")

    @property
    def longest(self) -> float:
        return max(self.samples, default=float("nan"))

    @property
    def is_met(self) -> bool:
        return not self.samples or self.longest <= self.goal

    def line(self) -> str:
        verdict = "" if self.is_met else "  MISSED"
        return (
            f"{self.name:<18} {len(self.samples):>3} samples   median {self.median:5.1f} s   longest {self.longest:5.1f} s"
            f"   goal {self.goal:.0f} s{verdict}"
        )


def measure(world: World, samples: int, *, seed: int, say: Callable[[str], None]) -> list[Recovery]:
    """`samples` of each kind, in turns."""
    chosen = random.Random(f"{seed} recovery")
    probe = Probe(world)
    kinds: list[tuple[Recovery, Callable[[], float | None]]] = [
        (Recovery("worker kill", 30.0), lambda: _after_kill(world, probe)),
        (Recovery("valkey flush", 60.0), lambda: _after_flush(world, probe, chosen)),
        (Recovery("postgres restart", 15.0), lambda: _after_restart(world, probe)),
        (Recovery("mongodb back", 60.0), lambda: _after_mongo(world)),
    ]
    probe.settle()
    for number in range(1, samples + 1):
        for recovery, sample in kinds:
            world.pause(chosen.uniform(*_BETWEEN_SECONDS))
            seconds = sample()
            if seconds is not None:
                recovery.samples.append(round(seconds, 2))
        taken = "   ".join(f"{each.name} {each.samples[-1]:.1f} s" for each, _ in kinds if each.samples)
        say(f"  recovery {number:>2}/{samples}: {taken}")
    return [recovery for recovery, _ in kinds]


class Probe:
    """Two orders of two customers, in an instrument where nobody else trades."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._admin = world.people.admin

    def settle(self) -> None:
        """Returns when a pair of new orders is settled. Raises NotInTime."""
        buy, sell = (
            self._place(session, side) for session, side in zip(self._world.people.probes, ("BUY", "SELL"), strict=True)
        )
        for id, session in ((buy, 0), (sell, 1)):
            self._wait_status(id, session, "ORDER_CONFIRMED")
        body = {"buy_order_id": buy, "sell_order_id": sell}
        request = self._new("cross", self._admin, "POST", "/api/matching/crosses", body, new_id(), "header")
        self._surely(request, self._admin)
        for id, session in ((buy, 0), (sell, 1)):
            self._wait_status(id, session, "MATCHED")

    def _place(self, session: Session, side: str) -> str:
        key = new_id()
        body = {
            "asset_name": PROBED,
            "order_side": side,
            "order_type": "LIMIT",
            "time_in_force": "GTC",
            "size": "1",
            "price": "10",
            "client_order_id": key,
        }
        request = self._surely(self._new("place", session, "POST", "/api/orders", body, key, "body"), session)
        if not request.answers:
            raise NotInTime(f"the probe's order was refused: {request.attempts[-1].code}")
        id: str = request.answers[-1]["id"]
        return id

    def _new(
        self,
        kind: str,
        by: Session,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        key: str | None,
        keyed_by: str,
    ) -> Request:
        return self._world.client.history.new(
            kind, by.username, by.customer_id, method, path, body=body, key=key, keyed_by=keyed_by
        )

    def _surely(self, request: Request, session: Session) -> Request:
        return surely(self._world.client, request, session, _GIVE_UP_SECONDS)

    def _wait_status(self, order_id: str, number: int, status: str) -> None:
        session = self._world.people.probes[number]

        def reached() -> bool:
            request = self._new("read", session, "GET", f"/api/orders/{order_id}", None, None, "none")
            attempt = self._world.client.attempt(request, session, timeout=3.0)
            return attempt.outcome is Outcome.OK and attempt.answer["status"] == status

        wait_until(reached, _GIVE_UP_SECONDS, f"probe {status}")


def _timed(probe: Probe) -> float:
    started = time.monotonic()
    probe.settle()
    return time.monotonic() - started


def _after_kill(world: World, probe: Probe) -> float | None:
    former = world.system.signal("worker", signal.SIGKILL)
    seconds = _timed(probe)
    world.system.wait_replaced("worker", former)
    return seconds


def _after_flush(world: World, probe: Probe, chosen: random.Random) -> float | None:
    return _timed(probe) if flush(world, chosen) else None


def _after_restart(world: World, probe: Probe) -> float | None:
    former = world.system.signal("postgres", signal.SIGQUIT)
    seconds = _timed(probe)
    world.system.wait_replaced("postgres", former)
    return seconds


def _after_mongo(world: World) -> float | None:
    """None when nothing waited at its return."""
    link = world.system.links["mongo"]
    link.bend = Bend(down=True)
    link.reset_all()
    try:
        world.pause(_MONGO_AWAY_SECONDS)
        backlog = set(_backlog(world))
    finally:
        link.heal()
    if not backlog:
        return None
    started = time.monotonic()

    def arrived() -> bool | Literal[False]:
        return not backlog & set(_backlog(world))

    wait_until(arrived, _GIVE_UP_SECONDS, "the backlog of MongoDB")
    return time.monotonic() - started


def _backlog(world: World) -> Iterator[str]:
    """The batches for the services on MongoDB that wait."""
    for database, _, _ in DATABASES.values():
        url = world.system.superuser_url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            for (id,) in connection.execute(
                "SELECT id::text FROM outbox_events WHERE acked_at IS NULL AND destination IN ('notifier', 'auditor')"
            ):
                yield id
