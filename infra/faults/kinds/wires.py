"""The wires between services and servers: slow, in pieces, held, cut, cut at a commit. The effect is what the link has seen."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from infra.faults.linked_run import LINKS, POSTGRES_LINKS
from infra.faults.links import Bend, Cut
from infra.faults.world import EVERYTHING, Inject, Kind, World, kind

# Postgres says so when a transaction is committed; the client says the same word to ask for it.
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"
COMMIT = b"COMMIT\x00"
MONGO_WRITE = b"writeConcern\x00"
VALKEY_LINKS = ("cache", "broker")
_CUT_SECONDS = 8.0


def down_for(names: Sequence[str], shortest: float, longest: float) -> Inject:
    """The server behind these links is away: open connections are cut, new ones refused."""

    def inject(world: World, chosen: random.Random) -> str | None:
        links = [world.system.links[name] for name in names]
        seconds = chosen.uniform(shortest, longest)
        before = sum(link.seen.refused for link in links)
        cut = 0
        try:
            for link in links:
                link.bend = Bend(down=True)
                cut += link.reset_all()
            world.pause(seconds)
        finally:
            for link in links:
                link.heal()
        refused = sum(link.seen.refused for link in links) - before
        return f"{seconds:.0f} s, {cut} connections cut, {refused} refused" if cut + refused else None

    return inject


def _bent_for(names: Sequence[str], bend: Bend, seconds: float) -> Inject:
    """Slow in some way, for a while; on one of the links, a random one."""

    def inject(world: World, chosen: random.Random) -> str | None:
        link = world.system.links[chosen.choice(list(names))]
        before = link.seen.delayed + link.seen.held
        try:
            link.bend = Bend(
                held=bend.held,
                latency=bend.latency,
                jitter=bend.jitter,
                bytes_per_second=bend.bytes_per_second,
                piece=bend.piece,
            )
            world.pause(seconds * chosen.uniform(0.7, 1.3))
        finally:
            link.heal()
        passed = link.seen.delayed + link.seen.held - before
        return f"{link.name}: {passed} pieces were late" if passed else None

    return inject


def _reset(names: Sequence[str]) -> Inject:
    def inject(world: World, chosen: random.Random) -> str | None:
        cut = sum(world.system.links[name].reset_all() for name in names)
        return f"{cut} connections reset" if cut else None

    return inject


def _cut(names: Sequence[str], towards: str, pattern: bytes, times: int) -> Inject:
    """On one of the links, a random one, the next `times` times that `pattern` passes."""

    def inject(world: World, chosen: random.Random) -> str | None:
        link = world.system.links[chosen.choice(list(names))]
        cut = Cut(towards, pattern, remaining=times)
        deadline = time.monotonic() + _CUT_SECONDS
        try:
            link.bend = Bend(cut=cut)
            while cut.remaining and time.monotonic() < deadline and not world.ending.is_set():
                time.sleep(0.05)
        finally:
            link.heal()
        return f"{link.name}: {cut.happened} times" if cut.happened else None

    return inject


def _clog(world: World, chosen: random.Random) -> str | None:
    """Some links one after the other, and free again in another order."""
    links = chosen.sample(world.system.links.all, chosen.randint(2, len(LINKS)))
    before = sum(link.seen.held for link in links)
    try:
        for link in links:
            link.bend = Bend(held=True)
            world.pause(0.5)
        chosen.shuffle(links)
        for link in links:
            world.pause(0.5)
            link.heal()
    finally:
        for link in links:
            link.heal()
    held = sum(link.seen.held for link in links) - before
    return f"{', '.join(link.name for link in links)}: {held} times held" if held else None


KINDS: tuple[Kind, ...] = (
    kind("drop commit acknowledgements", "postgres", weight=4)(_cut(POSTGRES_LINKS, "client", COMMITTED, 3)),
    kind("cut before commit", "postgres", weight=2)(_cut(POSTGRES_LINKS, "server", COMMIT, 3)),
    kind("drop mongo answers", "mongo", weight=2)(_cut(("mongo",), "answer", MONGO_WRITE, 3)),
    kind("drop broker answers", "valkey", weight=2)(_cut(("broker",), "answer", b"EVALSHA", 3)),
    kind("slow postgres link", "postgres", weight=2)(_bent_for(POSTGRES_LINKS, Bend(latency=0.2, jitter=0.1), 5.0)),
    kind("slow valkey link", "valkey")(_bent_for(VALKEY_LINKS, Bend(latency=0.2, jitter=0.1), 5.0)),
    kind("slow mongo link", "mongo")(_bent_for(("mongo",), Bend(latency=2.0), 8.0)),
    kind("narrow postgres link", "postgres")(_bent_for(POSTGRES_LINKS, Bend(bytes_per_second=10_000), 5.0)),
    kind("narrow broker link", "valkey")(_bent_for(("broker",), Bend(bytes_per_second=10_000), 5.0)),
    kind("postgres link in pieces", "postgres")(_bent_for(POSTGRES_LINKS, Bend(piece=7), 4.0)),
    kind("broker link in pieces", "valkey")(_bent_for(("broker",), Bend(piece=7), 4.0)),
    kind("reset postgres links", "postgres")(_reset(POSTGRES_LINKS)),
    kind("reset valkey links", "valkey")(_reset(VALKEY_LINKS)),
    kind("reset mongo links", "mongo")(_reset(("mongo",))),
    kind("hold postgres link", "postgres")(_bent_for(POSTGRES_LINKS, Bend(held=True), 5.0)),
    kind("hold valkey link", "valkey")(_bent_for(VALKEY_LINKS, Bend(held=True), 5.0)),
    kind("hold mongo link", "mongo")(_bent_for(("mongo",), Bend(held=True), 8.0)),
    kind("postgres away 1-4 s", "postgres")(down_for(POSTGRES_LINKS, 1.0, 4.0)),
    kind("one database away", "postgres", weight=2)(lambda world, chosen: _one_database(world, chosen)),
    kind("mongo away 10 s", "mongo")(down_for(("mongo",), 8.0, 12.0)),
    kind("mongo away 2.5 min", "mongo", lasting=150.0)(down_for(("mongo",), 150.0, 150.0)),
    kind("clog links", EVERYTHING)(_clog),
)


def _one_database(world: World, chosen: random.Random) -> str | None:
    name = chosen.choice(POSTGRES_LINKS)
    effect = down_for((name,), 2.0, 6.0)(world, chosen)
    return f"{name}: {effect}" if effect else None
