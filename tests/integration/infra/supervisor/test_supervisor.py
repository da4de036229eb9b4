import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from infra.runtime import supervisor as supervising
from infra.runtime.process import State
from tests.integration.infra.supervisor.conftest import Watched, eventually

FOREVER = "import time; time.sleep(600)"
AT_ONCE = "raise SystemExit(7)"


@pytest.fixture
def fast_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "BACK_OFF_SECONDS", 0.02)


class TestRestart:
    def test_a_killed_child_is_back_at_once_however_often_and_each_time_said_in_one_line(
        self, watched: Watched
    ) -> None:
        child = watched.start("child", FOREVER)
        seen: list[int] = []
        for _ in range(8):
            pid = child.pid
            assert pid is not None
            seen.append(pid)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: child.state is State.READY and child.pid not in seen)
            assert time.monotonic() - killed < 2.0
            eventually(lambda: len(watched.lines) == len(seen))
            assert watched.lines[-1] == f"child (pid {pid}) ended, killed by SIGKILL; restarted as pid {child.pid}"

    def test_one_that_lived_longer_than_a_second_is_restarted_at_once_whatever_its_exit(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervising, "SHORT_LIFE_SECONDS", 0.05)
        monkeypatch.setattr(supervising, "SHORT_LIVES_MAX", 1)
        child = watched.start("child", "import time; time.sleep(0.2); raise SystemExit(3)")
        eventually(lambda: len(watched.lines) >= 3)
        assert child.state is not State.FAILED
        assert "ended, exit 3; restarted as pid" in watched.lines[0]

    def test_the_slow_restart_of_one_does_not_hold_up_another(self, watched: Watched) -> None:
        def slowly(pid: int) -> bool:
            time.sleep(3)
            return False

        never = watched.start("never ready", FOREVER, probe=slowly)
        child = watched.start("child", FOREVER)
        eventually(lambda: child.state is State.READY)
        first, killed = child.pid, time.monotonic()
        child.send(signal.SIGKILL)
        eventually(lambda: child.pid != first and child.state is State.READY)
        assert time.monotonic() - killed < 2.0
        assert never.state is State.STARTING


class TestShortLives:
    def test_one_that_ends_by_itself_at_once_backs_off_and_then_is_failed(
        self, watched: Watched, fast_back_off: None
    ) -> None:
        child = watched.start("child", AT_ONCE)
        eventually(lambda: child.state is State.FAILED)
        said = eventually(lambda: [line for line in watched.lines if line.startswith("child failed")])
        assert len(said) == 1
        assert "5 times in a row (exit 7); see " in said[0]
        assert len(watched.lines) == supervising.SHORT_LIVES_MAX  # four restarts and the end of it
        hopeless = watched.supervisor.hopeless(endings_max=100)
        assert hopeless is not None
        assert hopeless.process is child
        assert hopeless.last_ending == "exit 7"

    def test_it_waits_longer_each_time(self, watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(supervising, "BACK_OFF_SECONDS", 0.2)
        starts = tmp_path / "starts"
        program = f"import time; open({str(starts)!r}, 'a').write(f'{{time.monotonic()}}\\n'); raise SystemExit(1)"
        child = watched.start("child", program)
        eventually(lambda: child.state is State.FAILED)
        times = [float(line) for line in starts.read_text().splitlines()]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(pauses) == supervising.SHORT_LIVES_MAX - 1
        assert all(pause >= 0.2 * 2**number for number, pause in enumerate(pauses))

    def test_a_signal_is_no_short_life(self, watched: Watched, fast_back_off: None) -> None:
        child = watched.start("child", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        eventually(lambda: len(watched.lines) > 2 * supervising.SHORT_LIVES_MAX)
        assert child.state is not State.FAILED
        assert all("killed by SIGSEGV" in line for line in watched.lines)


class TestStop:
    def test_what_was_let_go_is_not_restarted(self, watched: Watched) -> None:
        child = watched.start("child", FOREVER)
        eventually(lambda: child.state is State.READY)
        watched.supervisor.let_go()
        child.stop()
        time.sleep(0.2)
        assert child.state is State.STOPPED
        assert not child.alive
        assert watched.lines == []

    def test_one_that_waits_for_its_next_try_is_not_started_any_more(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervising, "BACK_OFF_SECONDS", 30.0)
        monkeypatch.setattr(supervising, "BACK_OFF_SECONDS_MAX", 30.0)
        child = watched.start("child", AT_ONCE)
        eventually(lambda: child.state is State.RESTARTING)
        pid = child.pid
        watched.supervisor.let_go()
        time.sleep(0.2)
        assert child.pid == pid
