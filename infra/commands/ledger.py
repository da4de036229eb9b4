"""`ledger verify`: whether the ledger is as it was written, and adds up."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict

import typer

from infra.commands.options import DataDir, Json

VARIABLE = "BROKAGE_ASSETS_DATABASE_URL"


def register(app: typer.Typer) -> None:
    ledger = typer.Typer(help="The double-entry ledger.", no_args_is_help=True)
    ledger.command()(verify)
    app.add_typer(ledger, name="ledger")


def verify(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Recompute the digest of every transaction, every sum and every balance, of the environment's database or else the
    running system's.

    Exit code 1 if something is wrong; the first thing is named.
    """
    from infra.commands.environment import use_databases
    from infra.runtime.failures import NoSystem
    from shared.db import Database
    from shared.db.engine import DatabaseUnavailable

    url = use_databases(data_dir, VARIABLE)[VARIABLE]
    # By name: the other services run with this one deleted.
    verification = importlib.import_module("asset_service.service.verification")
    database = Database(url, name="ledger verify", pool_size=1)
    try:
        found = verification.verify_ledger(database)
    except DatabaseUnavailable:
        raise NoSystem("the ledger's database does not answer") from None
    finally:
        database.close()
    if as_json:
        print(json.dumps({"valid": found.valid, **asdict(found)}))
    elif found.valid:
        print(f"the ledger is valid: {found.transactions:,} transactions, {found.entries:,} entries")
    else:
        where = found.first_bad.tx_ref or found.first_bad.subject
        print(f"the ledger is NOT valid: {where}: {found.first_bad.reason}")
    if not found.valid:
        raise typer.Exit(1)
