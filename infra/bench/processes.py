"""What the processes of the system spent: processor time and memory, by role."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]

GENERATOR = "load_generator"
MIB = 1024 * 1024


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system time since each began, its children included; this process is the load generator."""
    spent = {role: _with_children(pid) for role, pid in pids.items()}
    own = os.times()
    return spent | {GENERATOR: own.user + own.system}


def _with_children(pid: int) -> float:
    process = psutil.Process(pid)
    times = process.cpu_times()
    # A backend that ended has left its time with the postmaster.
    total = float(times.user + times.system + times.children_user + times.children_system)
    if process.name() == "postgres":
        for child in process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                mine = child.cpu_times()
                total += mine.user + mine.system
    return total


def memory_mib(pids: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size by role, children included (shared pages count once in all)."""
    return {role: round(_pss(pid) / MIB, 1) for role, pid in pids.items()}


def _pss(pid: int) -> int:
    process = psutil.Process(pid)
    total = 0
    for each in [process, *(process.children() if process.name() == "postgres" else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(each.memory_full_info().pss)
    return total
