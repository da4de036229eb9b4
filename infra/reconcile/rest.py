"""What must hold at rest, in a system that may be in the middle of traffic.

Stores are read one after the other, and a step of an order is in one before it is in the next. So a row that looks broken is
only suspected. It is broken once it stood unchanged for the grace, and no message that could mend it is on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from infra.reconcile.check import Examined
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores
from infra.reconcile.streams import chunks

AT_ONCE = 5_000
"""How many suspects are kept in memory; a scan that finds more waits for these first."""
_PATIENCE = 6
"""For how many graces a suspect that keeps moving is watched."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """`evidence` tells whether the row has moved since: versions and states of all that was compared."""

    key: str
    row: str
    reason: str
    evidence: str


@dataclass(slots=True)
class _Watched:
    suspect: Suspect
    deadline: float


Recheck = Callable[[Sequence[str]], Iterable[Suspect]]
OnItsWay = Callable[[Sequence[str]], Collection[str]]


def nothing(keys: Sequence[str]) -> Collection[str]:
    return ()


def at_rest(
    suspects: Iterable[Suspect],
    examined: Examined,
    settings: Settings,
    *,
    recheck: Recheck,
    on_its_way: OnItsWay = nothing,
) -> None:
    """Find those of `suspects` that are broken. Without any, nothing waits.

    Args:
        recheck: which of these keys are still suspect, read anew.
        on_its_way: for which of these keys a message is under way.
    """
    for chunk in chunks(suspects, AT_ONCE):
        _Watch(chunk, examined, settings.grace_seconds, recheck, on_its_way).run()


class _Watch:
    def __init__(
        self, suspects: list[Suspect], examined: Examined, grace: float, recheck: Recheck, on_its_way: OnItsWay
    ) -> None:
        self._examined = examined
        self._grace = grace
        self._recheck = recheck
        self._on_its_way = on_its_way
        self._until = time.monotonic() + grace * _PATIENCE
        self._watched = {each.key: _Watched(each, time.monotonic() + grace) for each in suspects}

    def run(self) -> None:
        while self._watched:
            time.sleep(min(self._grace / 5, 1.0))
            self._look_again(list(self._watched))
            now = time.monotonic()
            due = [key for key, watched in self._watched.items() if watched.deadline <= now]
            # A message that was consumed between two looks has moved something: so the row is read once more afterwards.
            waiting = set(self._on_its_way(due)) if due else set()
            standing = [key for key in due if key not in waiting]
            for key in self._look_again(standing):
                suspect = self._watched.pop(key).suspect
                self._examined.found(suspect.row, suspect.reason)
            if now >= self._until:
                self._examined.moving += len(self._watched)
                return

    def _look_again(self, keys: list[str]) -> list[str]:
        """Forget those that are in order now; the clock of those that moved starts anew. Returns those that stood still."""
        found = {suspect.key: suspect for suspect in self._recheck(keys)} if keys else {}
        still = []
        for key in keys:
            suspect = found.get(key)
            if suspect is None:
                del self._watched[key]
            elif suspect.evidence != self._watched[key].suspect.evidence:
                self._watched[key] = _Watched(suspect, time.monotonic() + self._grace)
            else:
                still.append(key)
        return still


def orders_under_way(stores: Stores) -> OnItsWay:
    """Which orders, or trades, a message between the services that move them speaks of."""

    def named(keys: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for service in ("order_service", "processor", "asset_service"):
            with stores.snapshot(service) as connection:
                rows = connection.execute(_UNDER_WAY, {"keys": list(keys)})
                found.update(row["id"] for row in rows)
        return found

    return named


_UNDER_WAY = """
    SELECT DISTINCT named.id
      FROM outbox_events AS o
     CROSS JOIN LATERAL jsonb_array_elements(o.payload::jsonb) AS message
     CROSS JOIN LATERAL (VALUES (message ->> 'aggregate_id'), (message -> 'payload' ->> 'buy_order_id'),
                                (message -> 'payload' ->> 'sell_order_id')) AS named (id)
     WHERE o.acked_at IS NULL AND o.destination IN ('order_service', 'asset_service', 'processor')
       AND named.id = ANY(%(keys)s)
"""
