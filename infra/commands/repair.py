"""`repair`: what does not go together after a restore to different moments, healed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from infra.commands.options import DataDir, Json

if TYPE_CHECKING:
    from infra.backup.repair import Findings

SHOWN_MAX = 20


def register(app: typer.Typer) -> None:
    app.command()(repair)


def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List only; change nothing.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List and heal what does not go together because stores were restored to different moments; the system goes on running.

    Exit code 1 if something is left for a person, or with --dry-run if there is anything at all.
    """
    from infra.backup.repair import find, heal
    from infra.commands.environment import use_databases
    from infra.reconcile.settings import Settings
    from infra.reconcile.stores import Stores
    from infra.runtime.failures import NoSystem
    from shared.db.engine import DatabaseUnavailable

    try:
        with Stores(use_databases(data_dir), Settings()) as stores:
            found = find(stores)
            left = found.for_a_person if dry_run else heal(stores, found)
    except DatabaseUnavailable as error:
        raise NoSystem(f"the database of {str(error).split()[0]} does not answer") from None
    if as_json:
        print(json.dumps({"found": _counts(found), "healed": not dry_run, "for_a_person": left}))
    else:
        _say(found, left, dry_run=dry_run)
    if left or (dry_run and found.count):
        raise typer.Exit(1)


def _counts(found: Findings) -> dict[str, int]:
    return {
        "unprocessed_batches": len(found.unprocessed),
        "unsent_receipts": len(found.unsent),
        "untold_events": len(found.untold),
        "unknown_orders": len(found.unknown_orders),
        "forgotten_cancels": len(found.forgotten_cancels),
        "unknown_customers": len(found.unknown_customers),
    }


def _say(found: Findings, left: list[str], *, dry_run: bool) -> None:
    counts = _counts(found)
    print(f"{counts['unprocessed_batches']:>8,}  acknowledged batches that their reader lacks: sent again")
    print(f"{counts['unsent_receipts']:>8,}  receipts of what nobody sent: forgotten")
    print(f"{counts['untold_events']:>8,}  events that only the audit trail still has: their customers are told")
    print(f"{counts['unknown_orders']:>8,}  orders that order_service does not know: reservation released, saga ended")
    print(f"{counts['forgotten_cancels']:>8,}  cancels that order_service has forgotten: said again")
    print(f"{counts['unknown_customers']:>8,}  customers whom customer_service does not know: their ids stay theirs")
    for line in left[:SHOWN_MAX]:
        print(f"for a person: {line}")
    if len(left) > SHOWN_MAX:
        print(f"for a person: {len(left) - SHOWN_MAX:,} more")
    if dry_run:
        print("nothing was changed")
    elif found.count:
        print("healed; `brokage reconcile` proves it once the messages have arrived")
    else:
        print("everything goes together")
