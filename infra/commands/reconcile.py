"""`reconcile`: whether the contract's invariants hold in the stores as they are."""

from __future__ import annotations

import json
import time

import typer

from infra.commands.options import DataDir, Json


def register(app: typer.Typer) -> None:
    app.command()(reconcile)


def reconcile(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Prove the invariants in the databases of the environment, or else of the running system; it may go on running.

    Exit code 1 if a row breaks one; the first ones of each are named.
    """
    from infra.commands.environment import use_databases
    from infra.reconcile.report import document, lines
    from infra.reconcile.run import reconcile as prove
    from infra.reconcile.settings import Settings
    from infra.reconcile.stores import Stores
    from infra.runtime import collector
    from infra.runtime.failures import NoSystem
    from shared.db.engine import DatabaseUnavailable

    environment = use_databases(data_dir)
    collector.tune()
    started = time.monotonic()
    documents = []
    try:
        with Stores(environment, Settings()) as stores:
            for check, examined in prove(stores):
                documents.append(document(check, examined))
                if not as_json:
                    for line in lines(check, examined):
                        print(line, flush=True)
    except DatabaseUnavailable as error:
        raise NoSystem(f"the database of {str(error).split()[0]} does not answer") from None
    valid = all(each["valid"] for each in documents)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"valid": valid, "seconds": seconds, "invariants": documents}))
    if not valid:
        raise typer.Exit(1)
