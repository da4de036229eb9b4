"""`bench`: what the platform does on this machine."""

from __future__ import annotations

import json
import sys
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
) -> None:
    """Measure a system of its own, started for it with the default settings of `up`, as ratios to what its Postgres can do."""
    from infra.bench.run import PROFILES, measure

    chosen = PROFILES[profile]
    if orders is not None:
        chosen = replace(chosen, orders=orders + orders % 2)
    found = measure(chosen, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=None if as_json else 2))
