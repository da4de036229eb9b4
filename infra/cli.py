"""The command line, `brokage` or `python -m infra`."""

from __future__ import annotations

import importlib
import sys

import typer

from infra.runtime.failures import RuntimeFailure

GROUPS = (
    *("up", "status", "logs", "migrate", "processes", "audit", "ledger", "reconcile", "republish", "pii", "bench"),
    *("backup", "restore", "repair", "signing_keys", "faults", "stuck"),
)


def main() -> None:
    """Run the command in `sys.argv`; failures of the runtime are one line on stderr and their exit code."""
    app = typer.Typer(
        name="brokage",
        help="The brokage platform on this machine.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for group in GROUPS:
        importlib.import_module(f"infra.commands.{group}").register(app)
    try:
        app()
    except RuntimeFailure as failure:
        print(f"brokage: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
