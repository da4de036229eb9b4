"""`bench`: what the platform does on this machine."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from infra.commands.options import Json


class ProfileName(StrEnum):
    SHORT = "short"
    FULL = "full"


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    as_json: Json = False,
    profile: Annotated[ProfileName, typer.Option(help="How much is measured; short takes some minutes.")] = (
        ProfileName.SHORT
    ),
    orders: Annotated[int | None, typer.Option(min=400, help="Orders of a round; else the profile's.")] = None,
    reads_at: Annotated[
        int | None, typer.Option(min=20_000, help="Compare reads at 10,000 orders with those at so many, bulk loaded.")
    ] = None,
) -> None:
    """Measure a system of its own, started for it with the default settings of `up`, as ratios to what its Postgres can do.

    Exit code 1 if what it counted does not reconcile or its audit trail does not verify.
    """
    from infra.bench.report import table
    from infra.bench.run import PROFILES, measure

    # So that the system is ended and its directory removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = PROFILES[profile]
    if orders is not None:
        chosen = replace(chosen, orders=orders + orders % 2)
    if reads_at is not None:
        chosen = replace(chosen, reads_at=(10_000, reads_at))
    started = time.monotonic()
    found = measure(
        chosen, lambda line: print(f"{time.monotonic() - started:6.1f} s  {line}", file=sys.stderr, flush=True)
    )
    if as_json:
        print(json.dumps(found))
    else:
        for line in table(found):
            print(line)
    if not (found["counters"]["reconcile"]["valid"] and found["counters"]["audit"]["valid"]):
        raise typer.Exit(1)
