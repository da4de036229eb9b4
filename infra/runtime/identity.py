"""Which process a pid means: a pid alone may have been given to a stranger since it was written down."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

POLL_SECONDS = 0.02


def identity(pid: int) -> str | None:
    """Return a text that no other process ever shares with this one, or None when there is no such live process.

    A zombie counts as gone: it holds no port, no lock and no file.
    """
    if sys.platform == "linux":
        return _linux_identity(pid)
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.3f}"
    except psutil.Error:
        return None


def _linux_identity(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name stands in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    state, start_ticks = fields[0], fields[19]
    if state in ("Z", "X"):
        return None
    # Ticks since boot are unique only within one boot; wall-clock start times move when the clock is set.
    return f"{_boot_id()}:{start_ticks}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def is_same(pid: int, known: str) -> bool:
    """Tell whether `pid` is still the process that `known` was taken from."""
    return identity(pid) == known


def wait_gone(processes: Iterable[tuple[int, str]], seconds: float) -> list[tuple[int, str]]:
    """Wait until none of the (pid, identity) pairs is alive; return those that still are after `seconds`."""
    remaining = list(processes)
    deadline = time.monotonic() + seconds
    while remaining := [(pid, known) for pid, known in remaining if is_same(pid, known)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    return remaining


def signal_if_same(pid: int, known: str, number: int) -> None:
    """Send a signal to a process that is no child of ours, unless the pid has changed hands."""
    if is_same(pid, known):
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).send_signal(number)
