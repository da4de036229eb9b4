"""`faults`: a system of its own, broken on purpose, and the proof that nothing was lost or doubled."""

from __future__ import annotations

import secrets
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

_SAMPLES_FROM_SECONDS = 600


def register(app: typer.Typer) -> None:
    app.command()(faults)


def faults(
    seconds: Annotated[float, typer.Option(min=5, help="How long faults are injected.")] = 60.0,
    orders: Annotated[int, typer.Option(min=1, help="How many orders at least.")] = 500,
    seed: Annotated[int | None, typer.Option(help="Repeats the choices of an earlier run; else a new one.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=0, help="Samples of each recovery time; else 20, or none in a run under 10 minutes."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Directory of the report and the history.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only kinds of fault whose name has this in it.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system's data and logs behind.")] = False,
) -> None:
    """Break a whole system of its own under traffic, heal it, and prove that nothing was lost or doubled.

    One line per fault; then the verdict. Exit code 1 if an invariant is broken. Settings of the environment reach the system.
    """
    from infra.faults.kinds import KINDS
    from infra.faults.run import Plan, run

    signal.signal(signal.SIGTERM, _interrupt)
    chosen = seed if seed is not None else secrets.randbelow(1_000_000)
    directory = report or Path(".brokage") / "faults" / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    kinds = tuple(kind for kind in KINDS if not only or any(part in kind.name for part in only))
    if not kinds:
        raise typer.BadParameter(f"the kinds are: {', '.join(kind.name for kind in KINDS)}", param_hint="--only")
    if samples is None:
        samples = 20 if seconds >= _SAMPLES_FROM_SECONDS else 0
    found = run(
        Plan(seconds, orders, chosen, directory, samples=samples, keep=keep, kinds=kinds),
        lambda line: print(line, flush=True),
    )
    text = found.text()
    print(text[: text.index("\nFAULTS IN THEIR ORDER")])
    print(f"report: {directory}")
    if not found.passed:
        raise typer.Exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
