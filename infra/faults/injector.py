"""Which fault comes when: a seeded deck, dealt to two lanes, and the long outages beside them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from infra.faults.world import EVERYTHING, Kind, World

LANES = 2
PAUSE_SECONDS = (0.5, 2.5)
"""Between two faults of a lane."""
_LOOK_SECONDS = 0.2
_DEFERRED_MAX = 200
"""More than touch the same thing in a long outage; they come when it is over."""
# When the long ones begin, as a part of the time there is; each needs a run of at least so many times its own length.
_LASTING_STARTS = {30.0: (0.08, 0.7, 0.85), 150.0: (0.5,), 300.0: (0.2,)}
_LASTING_SHARE = 4.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One that was injected. `effect` is None where none was seen; `at` and `seconds` are of the run's clock."""

    number: int
    kind: str
    at: float
    seconds: float
    effect: str | None
    error: str | None = None

    def line(self) -> str:
        said = self.effect or (f"not injected: {self.error}" if self.error else "no effect seen, not counted")
        return f"{self.at:7.1f} s  fault {self.number:>3}  {self.kind:<32} {self.seconds:5.1f} s  {said}"


def deck(kinds: Sequence[Kind], seed: int) -> Iterator[Kind]:
    """Without end: first every kind once, then rounds in which each is as often as its weight, all shuffled."""
    chosen = random.Random(f"{seed} deck")
    cards = list(kinds)
    while True:
        chosen.shuffle(cards)
        yield from cards
        cards = [kind for kind in kinds for _ in range(kind.weight)]


def lasting_plan(kinds: Sequence[Kind], seconds: float) -> list[tuple[float, Kind]]:
    """When each long outage begins, of those for which there is time."""
    return sorted(
        (
            (start * seconds, kind)
            for kind in kinds
            if kind.lasting * _LASTING_SHARE <= seconds
            for start in _LASTING_STARTS.get(kind.lasting, ())
        ),
        key=lambda item: item[0],
    )


class Injector:
    """Injects until it is stopped. `say` gets each fault once it is over."""

    def __init__(
        self,
        world: World,
        kinds: Sequence[Kind],
        *,
        seed: int,
        seconds: float,
        say: Callable[[Fault], None],
        lanes: int = LANES,
        pauses: tuple[float, float] = PAUSE_SECONDS,
    ) -> None:
        self._world = world
        self._deck = deck([kind for kind in kinds if not kind.lasting], seed)
        self._plan = lasting_plan([kind for kind in kinds if kind.lasting], seconds)
        self._seed = seed
        self._pauses = pauses
        self._say = say
        self._started = time.monotonic()
        self._changed = threading.Condition()
        self._deferred: list[Kind] = []
        self._busy: Counter[str] = Counter()
        self._number = 0
        self.faults: list[Fault] = []
        names = [*(f"lane {number}" for number in range(1, lanes + 1))]
        self._threads = [threading.Thread(target=self._lane, args=(name,), name=name, daemon=True) for name in names]
        self._threads += [
            threading.Thread(target=self._lasting, args=(at, kind), name=kind.name, daemon=True)
            for at, kind in self._plan
        ]

    def start(self) -> None:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 300.0) -> None:
        """No new ones; returns when the last has healed."""
        self._world.ending.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    @property
    def effective(self) -> list[Fault]:
        with self._changed:
            return [fault for fault in self.faults if fault.effect is not None]

    def _lane(self, name: str) -> None:
        chosen = random.Random(f"{self._seed} {name}")
        while not self._world.ending.is_set():
            kind = self._take()
            if kind is None:
                return
            self._inject(kind, chosen)
            self._world.pause(chosen.uniform(*self._pauses))

    def _lasting(self, at: float, kind: Kind) -> None:
        self._world.pause(max(0.0, at - (time.monotonic() - self._started)))
        with self._changed:
            while not self._is_free(kind):
                if self._world.ending.is_set():
                    return
                self._changed.wait(_LOOK_SECONDS)
            if self._world.ending.is_set():
                return
            self._hold(kind)
        self._inject(kind, random.Random(f"{self._seed} {kind.name} {at}"))

    # -- who may touch what --------------------------------------------------------------------------------------------

    def _take(self) -> Kind | None:
        """The next of the deck that touches nothing that is being touched; others keep their turn."""
        with self._changed:
            while not self._world.ending.is_set():
                for kind in self._deferred:
                    if self._is_free(kind):
                        self._deferred.remove(kind)
                        self._hold(kind)
                        return kind
                if len(self._deferred) < _DEFERRED_MAX:
                    kind = next(self._deck)
                    if self._is_free(kind):
                        self._hold(kind)
                        return kind
                    self._deferred.append(kind)
                    continue
                self._changed.wait(_LOOK_SECONDS)
        return None

    def _is_free(self, kind: Kind) -> bool:
        if EVERYTHING in kind.touches:
            return not self._busy
        return not self._busy[EVERYTHING] and not any(self._busy[name] for name in kind.touches)

    def _hold(self, kind: Kind) -> None:
        self._busy.update(kind.touches)

    def _release(self, kind: Kind) -> None:
        self._busy.subtract(kind.touches)
        self._busy += Counter()
        self._changed.notify_all()

    def _inject(self, kind: Kind, chosen: random.Random) -> None:
        began, effect, failure = time.monotonic(), None, None
        try:
            effect = kind.inject(self._world, chosen)
        except Exception as error:  # noqa: BLE001 - one that could not be injected is no fault; it is said and not counted
            failure = f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
        with self._changed:
            self._number += 1
            at, seconds = began - self._started, time.monotonic() - began
            fault = Fault(self._number, kind.name, round(at, 1), round(seconds, 1), effect, failure)
            self.faults.append(fault)
            self._release(kind)
        self._say(fault)
