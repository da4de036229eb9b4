"""Keep the processes of a run alive: what died is started again, what cannot live is named `failed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.runtime.process import ManagedProcess, State

TICK_SECONDS = 0.05
# One that ends by itself this soon after its start will not do better at once.
SHORT_LIFE_SECONDS = 1.0
SHORT_LIVES_MAX = 5
BACK_OFF_SECONDS = 0.5
BACK_OFF_SECONDS_MAX = 5.0


@dataclass(slots=True)
class _Watched:
    process: ManagedProcess
    short_lives: int = 0
    restart_at: float | None = None


class Supervisor:
    """Watches processes that run already; `step` is to be called again and again from one thread.

    A process that a signal ended, or that lived longer than a second, is back at once, however often. Only one that
    ends by itself within a second of its start is made to wait, longer each time, and is `failed` after five in a row.
    """

    def __init__(
        self,
        processes: Sequence[ManagedProcess],
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._watched = [_Watched(process) for process in processes]
        self._say = say
        self._changed = changed

    def add(self, process: ManagedProcess) -> None:
        self._watched.append(_Watched(process))

    def step(self) -> None:
        """Look at every process once; reports and restarts what died."""
        before = [(watched.process.state, watched.process.pid) for watched in self._watched]
        for watched in self._watched:
            self._look(watched)
        if before != [(watched.process.state, watched.process.pid) for watched in self._watched]:
            self._changed()

    def _look(self, watched: _Watched) -> None:
        process = watched.process
        if process.state in (State.STOPPED, State.FAILED):
            return
        if watched.restart_at is not None:
            if time.monotonic() >= watched.restart_at:
                watched.restart_at = None
                self._restart(watched, process.ending())
            return
        if process.alive:
            process.check_ready()
        else:
            self._died(watched)

    def _died(self, watched: _Watched) -> None:
        process = watched.process
        code = process.returncode
        short = time.monotonic() - process.spawned_at < SHORT_LIFE_SECONDS
        if code is None or code < 0 or not short:
            watched.short_lives = 0
            self._restart(watched, process.ending())
            return
        watched.short_lives += 1
        if watched.short_lives >= SHORT_LIVES_MAX:
            process.state = State.FAILED
            self._say(
                f"{process.name} failed: it ended by itself {watched.short_lives} times within 1 s of its start "
                f"({process.ending()}); see {process.spec.log}"
            )
            return
        process.state = State.RESTARTING
        delay = min(BACK_OFF_SECONDS * 2 ** (watched.short_lives - 1), BACK_OFF_SECONDS_MAX)
        watched.restart_at = time.monotonic() + delay

    def _restart(self, watched: _Watched, ending: str) -> None:
        process = watched.process
        former = process.pid
        process.spawn()
        self._say(f"{process.name} (pid {former}) died, {ending}; restarted as pid {process.pid}")
