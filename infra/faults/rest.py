"""After the last fault: every open question asked again, and everything that is under way let arrive."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from infra.faults.client import Client, Session, refused_for_now
from infra.faults.history import Outcome, Request
from infra.faults.system import NotInTime, wait_until
from infra.reconcile.stores import POSTGRES, Stores
from shared.db.engine import DatabaseUnavailable

_AT_ONCE = 8
_ANSWER_SECONDS = 60.0
_QUIET_LOOKS = 3
_SAMPLE = 0.05
"""The part of the requests that were answered at once which is repeated as well."""


def open_questions(requests: Sequence[Request], seed: int) -> list[Request]:
    """What to ask again: each keyed request with an attempt that nobody answered, and some of the others."""
    chosen = random.Random(f"{seed} again")
    keyed = [request for request in requests if request.keyed_by in ("header", "body")]
    by_path = [request for request in requests if request.keyed_by == "path" and request.outcome is Outcome.UNKNOWN]
    sampled = [r for r in keyed if not r.had_unknown and r.outcome is Outcome.OK and chosen.random() < _SAMPLE]
    return [request for request in keyed if request.had_unknown] + by_path + sampled


def resolve(client: Client, sessions: Mapping[str, Session], requests: Sequence[Request]) -> int:
    """Repeat each twice; both must say the same, which the proof looks at. How many were asked."""

    def ask(request: Request) -> None:
        for _ in range(2):
            request.resolved = _last_word(client, request, sessions[request.user])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(ask, requests))
    return len(requests)


def _last_word(client: Client, request: Request, session: Session) -> Outcome:
    last = Outcome.UNKNOWN

    def answered() -> bool:
        nonlocal last
        attempt = client.attempt(request, session)
        last = attempt.outcome
        return last is not Outcome.UNKNOWN and not refused_for_now(attempt)

    try:
        wait_until(answered, _ANSWER_SECONDS, "an answer")
    except NotInTime:
        return Outcome.UNKNOWN
    return last


def wait_at_rest(stores: Stores, seconds: float, say: Callable[[str], None]) -> bool:
    """Wait until no outbox has an unanswered batch and no saga awaits an answer; False if that took too long."""
    deadline, quiet, said = time.monotonic() + seconds, 0, 0.0
    while quiet < _QUIET_LOOKS:
        waiting = _waiting(stores)
        quiet = quiet + 1 if waiting == 0 else 0
        now = time.monotonic()
        if now > deadline:
            say(f"  not at rest after {seconds:.0f} s: {waiting} batches and sagas wait")
            return False
        if waiting and now - said > 10:
            say(f"  {waiting} batches and sagas on their way")
            said = now
        time.sleep(0.3)
    return True


def _waiting(stores: Stores) -> int:
    """How many; one more than none while a database does not answer."""
    waiting = 0
    try:
        for service in POSTGRES:
            with stores.database(service).read() as connection:
                row = connection.execute("SELECT count(*) AS n FROM outbox_events WHERE acked_at IS NULL").fetchone()
                waiting += row["n"] if row else 0
        with stores.database("processor").read() as connection:
            row = connection.execute("SELECT count(*) AS n FROM saga_instances WHERE awaiting").fetchone()
            waiting += row["n"] if row else 0
    except DatabaseUnavailable:
        return waiting + 1
    return waiting
