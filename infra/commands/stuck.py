"""`sagas` and `dead-letters`: what waits for a person, seen and let go. On the databases, so it needs no API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.commands.options import DataDir, Json

NEEDS_HUMAN = "NEEDS_HUMAN"
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
OPERATOR = "OPERATOR"
"""The role that acts in the audit trail when somebody does it at the command line, whom the platform does not know."""


def register(app: typer.Typer) -> None:
    sagas = typer.Typer(help="Sagas that wait for a person, or any.", no_args_is_help=True)
    sagas.command("list")(list_sagas)
    sagas.command("show")(show_saga)
    sagas.command("retry")(retry_saga)
    app.add_typer(sagas, name="sagas")
    letters = typer.Typer(help="Events that were parked, and those held behind them.", no_args_is_help=True)
    letters.command("list")(list_letters)
    letters.command("show")(show_letter)
    letters.command("requeue")(requeue_letter)
    app.add_typer(letters, name="dead-letters")


# -- sagas -----------------------------------------------------------------------------------------------------------------


def list_sagas(
    state: Annotated[str, typer.Option("--state", help="Only in this state; `all` for every saga.")] = NEEDS_HUMAN,
    limit: Limit = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Sagas in a state, the newest first."""
    with _service("processor", data_dir) as resources:
        from processor import repository

        with resources.database.read() as connection:
            wanted = None if state == "all" else state
            rows = repository.list_sagas(connection, state=wanted, before=None, limit=limit)
    _print(
        rows,
        as_json,
        lambda row: (
            f"{row['saga_id']}  {row['saga_type']:<5}  {row['current_state']:<11}"
            f"  {row['resume_state'] or '-':<10}  {_time(row['updated_at'])}  {row['reason'] or ''}".rstrip()
        ),
        f"no saga in {state}" if state != "all" else "no sagas",
    )


def show_saga(saga_id: str, as_json: Json = False, data_dir: DataDir = None) -> None:
    """A saga, by the id of its order or trade."""
    with _service("processor", data_dir) as resources:
        _print_one(_find_saga(resources, saga_id), as_json)


def retry_saga(saga_id: str, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Let a saga in NEEDS_HUMAN go on where it was stuck; what it awaits is asked for again."""
    with _service("processor", data_dir) as resources:
        from processor.service.repair import retry_saga as retry

        _find_saga(resources, saga_id)
        resources.database.run(lambda unit: retry(unit, saga_id, settings=resources.settings), context=_operator())
        row = _find_saga(resources, saga_id)
    _print([row], as_json, lambda row: f"{row['saga_id']} goes on in {row['current_state']}", "")


def _find_saga(resources: Any, saga_id: str) -> dict[str, Any]:
    from infra.runtime.failures import RuntimeFailure
    from processor import repository
    from shared.ids import is_id

    with resources.database.read() as connection:
        row = repository.find_saga(connection, saga_id) if is_id(saga_id) else None
    if row is None:
        raise RuntimeFailure(f"there is no saga {saga_id}")
    return {name: value for name, value in row.items() if name != "payload_text"}


# -- dead letters ------------------------------------------------------------------------------------------------------------


def list_letters(
    service: Annotated[str, typer.Argument(help="Only of this service.")] = "all",
    limit: Limit = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Open dead letters, the oldest of each service first."""
    from infra.services import choose

    rows: list[dict[str, Any]] = []
    for name in choose([service], "app"):
        with _service(name, data_dir) as resources:
            rows += [{"service": name, **row} for row in resources.dead_letters.list_open(after=None, limit=limit)]
    _print(rows, as_json, _letter_line, "no dead letters")


def show_letter(service: str, letter_id: str, as_json: Json = False, data_dir: DataDir = None) -> None:
    """A dead letter with its message, and the ones that a requeue takes along, in order."""
    with _service(service, data_dir) as resources:
        letter, together = resources.dead_letters.show(letter_id)
    shown = {"service": service, **letter, "together": [{"service": service, **row} for row in together]}
    if as_json:
        _print_one(shown, as_json)
        return
    _print_one({**shown, "together": [_letter_line(row) for row in shown["together"]]}, as_json)


def requeue_letter(service: str, letter_id: str, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Handle the event again, and those held behind it, in order: all of them have their effect, or nothing has changed."""
    with _service(service, data_dir) as resources:
        _, together = resources.dead_letters.show(letter_id)
        row = resources.dead_letters.requeue(letter_id, _operator())
    done = {"service": service, **row, "requeued": len(together)}
    _print([done], as_json, lambda row: f"{row['requeued']} events of {row['aggregate_id']} handled by {service}", "")


def _letter_line(row: dict[str, Any]) -> str:
    about = f"{row['event_type']} of {row['aggregate_type']} {row['aggregate_id']}"
    return (
        f"{row['service']:<16}  {row['id']}  {row['status']:<6}  {about}  {_time(row['created_at'])}  {row['reason']}"
    )


# -- both --------------------------------------------------------------------------------------------------------------------


@contextmanager
def _service(name: str, data_dir: Path | None) -> Iterator[Any]:
    """What the API of a service has open, in this process; what it refuses is one line."""
    from infra.commands.environment import use_databases
    from infra.runtime.failures import NoSystem, RuntimeFailure
    from infra.services import choose, load
    from shared.app import EdgeSettings
    from shared.db.engine import DatabaseUnavailable
    from shared.errors import BrokageError

    use_databases(data_dir)
    [name] = choose([name], "app")
    try:
        resources = load(name, "app").api.start(EdgeSettings())
        try:
            yield resources
        finally:
            resources.close()
    except DatabaseUnavailable:
        raise NoSystem(f"the database of {name} does not answer") from None
    except BrokageError as refusal:
        raise RuntimeFailure(refusal.detail or refusal.title) from None


def _operator() -> Any:
    from shared.contracts.message import Actor
    from shared.db import Context

    return Context(actor=Actor(role=OPERATOR))


def _print(rows: list[dict[str, Any]], as_json: bool, line: Any, nothing: str) -> None:
    if as_json:
        print(json.dumps(rows, default=str))
    elif rows:
        print("\n".join(line(row) for row in rows))
    else:
        print(nothing)


def _print_one(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, default=str))
        return
    for name, value in row.items():
        print(
            f"{name:<16}  {json.dumps(value, indent=2, default=str) if isinstance(value, dict | list) else _text(value)}"
        )


def _text(value: Any) -> str:
    return _time(value) if isinstance(value, datetime) else "-" if value is None else str(value)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
