"""`backup`: a backup of the running system, or a look at one; `backup-scheduled`: the one that is due."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.commands.options import DataDir, Json

if TYPE_CHECKING:
    from infra.backup.take import Source

VERIFY = "verify"


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(backup)
    app.command("backup-scheduled", hidden=True)(backup_scheduled)


HELP = """Back up the running system into DIR, which must be new or empty, at one causal cut; everything goes on meanwhile.

`backup verify DIR` checks a backup: its files are what was written, and with --start a system comes up from it in a temporary
directory and proves itself (`reconcile`, `audit verify`, `ledger verify`). Exit code 1 if it does not."""


def backup(
    what: Annotated[list[str], typer.Argument(help="Where to, or `verify` and which.", metavar="[verify] DIR")],
    start: Annotated[bool, typer.Option("--start", help="With verify: bring a system up from it.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    if len(what) == 2 and what[0] == VERIFY:
        _verify(Path(what[1]), start=start, as_json=as_json)
    elif len(what) == 1 and what[0] != VERIFY and not start:
        _take(Path(what[0]).expanduser().resolve(), as_json=as_json, data_dir=data_dir)
    else:
        raise typer.BadParameter("say `backup DIR` or `backup verify DIR [--start]`")


def _take(directory: Path, *, as_json: bool, data_dir: Path | None) -> None:
    from infra.backup.manifest import shown
    from infra.backup.take import take_full

    made = take_full(_source(data_dir), directory)
    if as_json:
        facts = {
            "directory": str(directory),
            "taken_at": made.taken_at.isoformat(),
            "lsn": made.lsn,
            "bytes": made.bytes,
        }
        print(json.dumps({**facts, "seconds": made.seconds, "pause_milliseconds": made.pause_milliseconds}))
        return
    print(f"cut           {shown(made.taken_at)} at {made.lsn}, messages held for {made.pause_milliseconds} ms")
    print(f"documents     {sum(made.documents.values()):,}")
    print(f"backup        {made.bytes / 1e6:.1f} MB in {made.seconds:.1f} s in {directory}")


def _verify(directory: Path, *, start: bool, as_json: bool) -> None:
    from infra.backup import manifest, repository
    from infra.backup.verify import check_by_starting, check_files

    directory = directory.expanduser().resolve()
    plan = repository.plan(directory, None)
    said: list[str] = []
    problems = [f"{each.name}: {problem}" for each in sorted({plan.base, plan.cut}) for problem in check_files(each)]
    say = said.append if as_json else print
    found = manifest.read(plan.cut)
    say(f"{len(found.files)} files, {found.bytes / 1e6:.1f} MB, cut at {manifest.shown(found.taken_at)}")
    for problem in problems:
        say(f"NOT valid: {problem}")
    valid = not problems and (not start or check_by_starting(plan, say))
    if as_json:
        print(json.dumps({"valid": valid, "started": start, "problems": problems, "lines": said}))
    else:
        print("the backup is valid" if valid else "the backup is NOT valid")
    if not valid:
        raise typer.Exit(1)


def backup_scheduled(data_dir: DataDir = None) -> None:
    """Make the scheduled backup that is due, and delete those whose time is over. `up` calls it."""
    from infra.backup.schedule import run
    from infra.backup.settings import BackupSettings

    began = time.monotonic()
    done = run(_source(data_dir), BackupSettings.of(os.environ))
    said = json.dumps(done) if done else "none is due"
    print(f"scheduled backup: {said} ({time.monotonic() - began:.1f} s)", flush=True)


def _source(data_dir: Path | None) -> Source:
    """The running system's servers.

    Raises:
        NoSystem: none runs. CannotStart: its databases are not ours to copy.
    """
    from infra.backup.take import Source
    from infra.runtime.data_directory import DataDirectory
    from infra.runtime.failures import CannotStart
    from infra.runtime.running import find_system
    from infra.servers import DATABASE_VARIABLES, PostgresServer

    system = find_system(data_dir)
    port = system.run["ports"].get("postgres")
    urls = system.environment
    if port is None or any(f":{port}/" not in urls[variable] for variable in DATABASE_VARIABLES):
        raise CannotStart("this system's databases are not its own servers; back them up by their own means")
    data = DataDirectory(system.data_dir)
    postgres = PostgresServer(data)
    postgres.port = port
    return Source(data, postgres, urls["BROKAGE_MONGO_URL"])
