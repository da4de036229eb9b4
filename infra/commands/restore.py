"""`restore`: a backup back into a data directory."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(restore)


def restore(
    directory: Annotated[Path, typer.Argument(help="A backup, or a directory of scheduled ones.", metavar="DIR")],
    data_dir: Annotated[
        Path,
        typer.Option(envvar="BROKAGE_DATA_DIR", help="Where to; nothing may run there. What is there is moved aside."),
    ] = Path(".brokage"),
    to: Annotated[
        str | None,
        typer.Option(help="A moment, as 2026-11-21T09:30:00Z; else the backup's own, or the last cut.", metavar="TIME"),
    ] = None,
) -> None:
    """Restore a backup into a new or stopped data directory; `up` starts it then."""
    from infra.backup.manifest import shown
    from infra.backup.repository import plan
    from infra.backup.restore import restore as bring_back
    from infra.runtime.data_directory import DataDirectory

    began = time.monotonic()
    chosen = plan(directory.expanduser().resolve(), _moment(to))
    data = DataDirectory(data_dir)
    restored = bring_back(chosen, data)
    print(f"base          {chosen.base}")
    print(f"cut           {shown(restored.manifest.taken_at)}, {restored.documents:,} documents")
    if chosen.to:
        last = f", the last commit is of {shown(restored.reached)}" if restored.reached else ""
        print(f"databases     of {shown(chosen.to)}{last}")
        print(f"replayed      {restored.replayed:,} batches go again to readers whose documents are older")
    if restored.aside:
        print(f"before        {restored.aside} has what was there")
    print(f"restored      in {time.monotonic() - began:.1f} s; start it with `brokage up --data-dir {data.path}`")


def _moment(text: str | None) -> datetime | None:
    from infra.runtime.failures import CannotStart

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CannotStart(f"{text} is no moment; write it as 2026-11-21T09:30:00Z") from None
    if moment.tzinfo is None:
        raise CannotStart(f"{text} has no time zone; write it as 2026-11-21T09:30:00Z")
    return moment
