"""Valkey emptied, refusing, or away. The effect is seen in what Valkey says, or at the links that lead to it."""

from __future__ import annotations

import random
import time

import redis

from infra.faults.kinds.processes import stopped
from infra.faults.kinds.wires import down_for
from infra.faults.world import Kind, World, kind

_ACKS = "brokage:*.acks"


def flush(world: World, chosen: random.Random) -> str | None:
    with world.valkey() as valkey:
        keys = int(valkey.dbsize())
        valkey.flushall()
    return f"{keys} keys gone" if keys else None


def _flush_scripts(world: World, chosen: random.Random) -> str | None:
    with world.valkey() as valkey:
        info: dict[str, int] = valkey.info("memory")
        valkey.script_flush()
    scripts = int(info.get("number_of_cached_scripts", 0))
    return f"{scripts} scripts gone" if scripts else None


def _kill_clients(world: World, chosen: random.Random) -> str | None:
    with world.valkey() as valkey:
        killed = int(valkey.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))  # type: ignore[no-untyped-call]
    return f"{killed} connections closed" if killed else None


def _pause(world: World, chosen: random.Random) -> str | None:
    with world.valkey(timeout=1.0) as valkey:
        valkey.execute_command("CLIENT", "PAUSE", chosen.randint(2_000, 5_000), "ALL")  # type: ignore[no-untyped-call]
        try:
            valkey.ping()
        except redis.TimeoutError:
            world.pause(3.0)
            return "it did not answer for some seconds"
    return None


def _read_only(world: World, chosen: random.Random) -> str | None:
    """As after a failover: it becomes the replica of a server that is not there."""
    with world.valkey() as valkey:
        try:
            valkey.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
            try:
                valkey.set("faults", "1")
            except redis.exceptions.ReadOnlyError:
                world.pause(chosen.uniform(2.0, 5.0))
                return "writes were refused as READONLY"
        finally:
            valkey.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
    return None


def _full(world: World, chosen: random.Random) -> str | None:
    with world.valkey() as valkey:
        try:
            valkey.config_set("maxmemory", "1kb")
            try:
                valkey.set("faults", "1")
            except redis.exceptions.OutOfMemoryError:
                world.pause(chosen.uniform(2.0, 5.0))
                return "writes were refused as OOM"
        finally:
            valkey.config_set("maxmemory", "0")
    return None


def _lose_acknowledgements(world: World, chosen: random.Random) -> str | None:
    """While the relay is stopped, so that there are some."""
    lost = 0
    with world.valkey() as valkey, stopped(world.system.pid("relay")):
        deadline = time.monotonic() + 4.0
        while not lost and time.monotonic() < deadline and not world.ending.is_set():
            time.sleep(0.1)
            for key in valkey.scan_iter(_ACKS):
                lost += int(valkey.llen(key))
                valkey.delete(key)
    return f"{lost} lists of acknowledgements lost" if lost else None


KINDS: tuple[Kind, ...] = (
    kind("flush valkey", "valkey", weight=3)(flush),
    kind("flush scripts", "valkey")(_flush_scripts),
    kind("close valkey connections", "valkey")(_kill_clients),
    kind("pause valkey", "valkey")(_pause),
    kind("valkey read-only", "valkey")(_read_only),
    kind("valkey memory full", "valkey")(_full),
    kind("lose acknowledgements", "valkey", "relay", weight=2)(_lose_acknowledgements),
    kind("valkey away 1-4 s", "valkey", weight=2)(down_for(("cache", "broker"), 1.0, 4.0)),
    kind("valkey away 30 s", "valkey", lasting=30.0)(down_for(("cache", "broker"), 30.0, 30.0)),
    kind("valkey away 5 min", "valkey", lasting=300.0)(down_for(("cache", "broker"), 300.0, 300.0)),
)
