"""`audit verify`: whether the audit trail is as it was written."""

from __future__ import annotations

import importlib
import json
from typing import Any

import typer

from infra.commands.options import DataDir, Json


def register(app: typer.Typer) -> None:
    audit = typer.Typer(help="The audit trail.", no_args_is_help=True)
    audit.command()(verify)
    audit.command()(archive)
    app.add_typer(audit, name="audit")


def verify(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Recompute the trail's hash chain, of the environment's database or else the running system's.

    Archived records and signed checkpoints are part of it. Exit code 1 if a record is changed, missing, reordered, inserted
    or made anew; the first one is named.
    """
    found = _verify(data_dir)
    if as_json:
        print(json.dumps(found))
    elif found["valid"]:
        print(f"the audit trail is valid: {found['records']} records, head {found['head']['hash']}")
    else:
        bad = found["first_bad"]
        print(f"the audit trail is NOT valid: record {bad['seq']} is the first bad one ({bad['reason']})")
    if not found["valid"]:
        raise typer.Exit(1)


def archive(data_dir: DataDir = None) -> None:
    """Move the records whose time is over to the archive now (BROKAGE_AUDIT_ARCHIVE_DIR); a relay does it every hour."""
    from infra.runtime.failures import RuntimeFailure

    done = _tasks(data_dir).archive_from_command_line()
    print(f"archived {done['records']:,} records")
    if done["problem"]:
        raise RuntimeFailure(f"no more is archived: {done['problem']}")


def _verify(data_dir: Any) -> dict[str, Any]:
    from infra.runtime import collector
    from infra.runtime.failures import RuntimeFailure
    from shared.db.engine import DatabaseUnavailable

    tasks = _tasks(data_dir)
    collector.tune()
    try:
        result: dict[str, Any] = tasks.verify_from_command_line()
    except DatabaseUnavailable as error:
        where = "checkpoints do" if "checkpoints" in str(error) else "database does"
        raise RuntimeFailure(f"the audit trail's {where} not answer") from None
    return result


def _tasks(data_dir: Any) -> Any:
    from infra.commands.environment import use_databases

    use_databases(data_dir, "BROKAGE_MONGO_URL")
    # By name: the other services run with this one deleted.
    return importlib.import_module("auditor.tasks")
