"""Keep the processes of a run alive: what died is started again, what cannot live is named `failed`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from infra.runtime.failures import RuntimeFailure
from infra.runtime.process import ManagedProcess, State

POLL_SECONDS = 0.03
# One that ends by itself this soon after its start will not do better at once.
SHORT_LIFE_SECONDS = 1.0
SHORT_LIVES_MAX = 5
BACK_OFF_SECONDS = 0.5
BACK_OFF_SECONDS_MAX = 4.0
SPAWN_AGAIN_SECONDS = 1.0


class Keeper:
    """Watches one process from a thread of its own, so that the slow restart of one delays no other.

    A process that a signal ended, or that lived longer than a second, is back at once, however often. Only one that ends
    by itself within a second of its start waits, longer each time, and is `failed` after five in a row.
    """

    def __init__(self, process: ManagedProcess, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.process = process
        self.ended_by_itself = 0
        self.last_ending = ""
        self._say = say
        self._changed = changed
        self._stopping = threading.Event()
        self._spawning = threading.Lock()
        self._short_lives = 0
        self._thread = threading.Thread(target=self._run, name=f"keeper of {process.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def let_go(self) -> None:
        """Restart it no more; returns when no restart is under way."""
        self._stopping.set()
        with self._spawning:
            pass

    def _run(self) -> None:
        while True:
            self._watch_life()
            if self._stopping.is_set() or not self._wait_before_restart():
                return
            if not self._restart():
                return

    def _watch_life(self) -> None:
        process = self.process
        while process.alive and process.state is not State.READY and not self._stopping.is_set():
            if process.check_ready():
                self._changed()
            else:
                time.sleep(POLL_SECONDS)
        process.wait_ended()
        self.last_ending = process.ending()

    def _wait_before_restart(self) -> bool:
        """Wait as long as the last life's end asks for; False when it is not to be restarted."""
        process = self.process
        if (process.returncode or 0) < 0:
            return True
        self.ended_by_itself += 1
        if time.monotonic() - process.spawned_at >= SHORT_LIFE_SECONDS:
            self._short_lives = 0
            return True
        self._short_lives += 1
        failed = self._short_lives >= SHORT_LIVES_MAX
        process.state = State.FAILED if failed else State.RESTARTING
        self._changed()
        if failed:
            self._say(
                f"{process.name} failed: it ended by itself within {SHORT_LIFE_SECONDS:.0f} s of its start"
                f" {self._short_lives} times in a row ({self.last_ending}); see {process.spec.log}"
            )
            return False
        delay = min(BACK_OFF_SECONDS * 2 ** (self._short_lives - 1), BACK_OFF_SECONDS_MAX)
        return not self._stopping.wait(delay)

    def _restart(self) -> bool:
        """Start a new life and say so; False when stopping came first."""
        process, former, ending = self.process, self.process.pid, self.process.ending()
        while True:
            with self._spawning:
                if self._stopping.is_set():
                    return False
                problem = self._spawn()
            if problem is None:
                break
            # A full disk or process table may pass; the process itself is not to blame.
            self._say(f"{process.name} cannot be restarted now: {problem}")
            self._stopping.wait(SPAWN_AGAIN_SECONDS)
        self._changed()
        self._say(f"{process.name} (pid {former}) ended, {ending}; restarted as pid {process.pid}")
        return True

    def _spawn(self) -> str | None:
        try:
            self.process.spawn()
        except (OSError, RuntimeFailure) as error:
            # What is alive has only not been written down.
            return None if self.process.alive else str(error)
        return None


class Supervisor:
    """The keepers of a run. `say` gets a line for each death, `changed` is called after every change of a state or pid, both from
    any thread."""

    def __init__(self, say: Callable[[str], None], changed: Callable[[], None] = lambda: None) -> None:
        self._say = say
        self._changed = changed
        self._keepers: list[Keeper] = []

    def keep(self, processes: Sequence[ManagedProcess]) -> None:
        """Watch processes that have been spawned."""
        for process in processes:
            keeper = Keeper(process, self._say, self._changed)
            self._keepers.append(keeper)
            keeper.start()

    def hopeless(self, endings_max: int) -> Keeper | None:
        """The keeper of one that has failed, or has ended by itself that often already."""
        for keeper in self._keepers:
            if keeper.process.state is State.FAILED or keeper.ended_by_itself >= endings_max:
                return keeper
        return None

    def let_go(self) -> None:
        """Restart nothing any more, so that it can be stopped."""
        for keeper in self._keepers:
            keeper.let_go()
