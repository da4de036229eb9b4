"""Processes killed, told to end, or stopped for a while. The effect is seen at pid, state, or an answer that fails."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]
import psycopg

from infra.faults.system import CHILDREN, SERVERS
from infra.faults.world import EVERYTHING, Inject, Kind, World, kind
from infra.servers.mongo import PING_MESSAGE
from infra.servers.ports import LOOPBACK

_ANSWER_SECONDS = 0.7


def ended_by(role: str, number: signal.Signals) -> Inject:
    def inject(world: World, chosen: random.Random) -> str | None:
        started = time.monotonic()
        former = world.system.signal(role, number)
        pid = world.system.wait_replaced(role, former)
        return f"pid {former} is now {pid}, ready after {time.monotonic() - started:.1f} s"

    return inject


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes do nothing inside the block, and go on after it."""
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def stopped_for(role: str, shortest: float, longest: float) -> Inject:
    """The whole family of the process, as Postgres is many."""

    def inject(world: World, chosen: random.Random) -> str | None:
        pid = world.system.pid(role)
        family = [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]
        seconds = chosen.uniform(shortest, longest)
        with stopped(*family):
            time.sleep(0.2)
            effect = is_stopped(pid) and _effect_of_stop(world, role)
            world.pause(seconds)
        return f"stopped for {seconds:.1f} s, {effect}" if effect else None

    return inject


def _effect_of_stop(world: World, role: str) -> str | None:
    if role in CHILDREN:
        return "it did nothing"
    return None if _answers(world, role) else "it did not answer"


def _answers(world: World, role: str) -> bool:
    if role == "postgres":
        try:
            psycopg.connect(world.system.superuser_url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
    process = world.system.environment["BROKAGE_REDIS_URL" if role == "valkey" else "BROKAGE_MONGO_URL"]
    port = int(process.rsplit(":", 1)[1].split("/")[0])
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_SECONDS) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(b"PING\r\n" if role == "valkey" else PING_MESSAGE)
            return bool(connection.recv(5))
    except OSError:
        return False


def _starve(world: World, chosen: random.Random) -> str | None:
    """The worker gets a fifth of its time, in slices."""
    pid, stops = world.system.pid("worker"), 0
    for _ in range(20):
        with stopped(pid):
            time.sleep(0.16)
            stops += is_stopped(pid)
        time.sleep(0.04)
    return f"stopped {stops} times" if stops > 10 else None


def _kill_supervisor(world: World, chosen: random.Random) -> str | None:
    system = world.system
    former = system.supervisor_pid
    started = time.monotonic()
    system.kill_supervisor()
    time.sleep(chosen.uniform(0.0, 1.0))
    system.start()
    return f"pid {former} is now {system.supervisor_pid}, ready after {time.monotonic() - started:.1f} s"


def _restart_all(world: World, chosen: random.Random) -> str | None:
    system = world.system
    former, started = system.supervisor_pid, time.monotonic()
    code = system.stop()
    system.start()
    return f"ended with {code}, ready again after {time.monotonic() - started:.1f} s" if former else None


def _kill_two(world: World, chosen: random.Random) -> str | None:
    """Worker and relay at the same moment."""
    former = {role: world.system.signal(role, signal.SIGKILL) for role in ("worker", "relay")}
    now = {role: world.system.wait_replaced(role, pid) for role, pid in former.items()}
    return ", ".join(f"{role} {former[role]} is now {pid}" for role, pid in now.items())


KINDS: tuple[Kind, ...] = (
    *(
        kind(f"kill {role}", role, weight=3 if role == "worker" else 2)(ended_by(role, signal.SIGKILL))
        for role in (*CHILDREN, "valkey", "mongo")
    ),
    kind("kill postgres", "postgres")(ended_by("postgres", signal.SIGKILL)),
    *(kind(f"terminate {role}", role)(ended_by(role, signal.SIGTERM)) for role in (*CHILDREN, "valkey", "mongo")),
    kind("kill worker and relay", "worker", "relay")(_kill_two),
    # Longer than the lease of a delivery.
    kind("stop worker", "worker", weight=2)(stopped_for("worker", 4.0, 9.0)),
    kind("stop relay", "relay")(stopped_for("relay", 4.0, 8.0)),
    kind("stop api", "api")(stopped_for("api", 1.0, 6.0)),
    *(kind(f"stop {role}", role)(stopped_for(role, 2.0, 7.0)) for role in SERVERS),
    kind("starve worker", "worker")(_starve),
    kind("kill supervisor", EVERYTHING)(_kill_supervisor),
    kind("restart everything", EVERYTHING)(_restart_all),
)
