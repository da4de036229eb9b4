"""`pii rotate`: a new key for personal data that is stored encrypted, and everything under it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.commands.options import DataDir

CUSTOMERS = "BROKAGE_CUSTOMERS_DATABASE_URL"


def register(app: typer.Typer) -> None:
    pii = typer.Typer(help="Personal data that is stored encrypted.", no_args_is_help=True)
    pii.command()(rotate)
    pii.callback()(_group)
    app.add_typer(pii, name="pii")


def _group() -> None:
    """A group although it has one command so far."""


def rotate(
    batch: Annotated[int, typer.Option(min=1, max=5_000, help="Rows re-encrypted in one transaction.")] = 200,
    data_dir: DataDir = None,
) -> None:
    """Make a new key and re-encrypt everything under it; interrupted, the next run goes on where this one was.

    Keys given by BROKAGE_FIELD_KEYS are yours to make: then everything moves to the highest number there.
    """
    from infra.commands.environment import use_databases
    from infra.runtime.failures import NoSystem, RuntimeFailure
    from shared.db import Database
    from shared.db.engine import DatabaseUnavailable
    from shared.encryption import CannotOpen, FieldKeysUnusable

    environment = use_databases(data_dir, CUSTOMERS)
    rotation = importlib.import_module("customer_service.service.key_rotation")
    database = Database(environment[CUSTOMERS], name="customer_service pii", pool_size=1)
    try:
        keys = _keys(rotation, database)
        moved = 0
        for rows in rotation.reencrypt(database, keys, batch=batch):
            moved += rows
            print(f"re-encrypted {moved:,} rows", flush=True)
        left = rotation.rows_under_older_keys(database, keys)
    except DatabaseUnavailable as error:
        raise NoSystem(f"the database of {str(error).split()[0]} does not answer") from None
    except (CannotOpen, FieldKeysUnusable) as error:
        raise RuntimeFailure(str(error)) from None
    finally:
        database.close()
    print(f"everything is under field key {keys.current}: {moved:,} rows re-encrypted, {left} under older keys")


def _keys(rotation: Any, database: Any) -> Any:
    """The keys to rotate to: with a new one, unless the last rotation has not ended or the keys are given."""
    from shared import encryption
    from shared.settings import ServiceSettings

    settings = ServiceSettings()
    if settings.field_keys is None and settings.key_dir is not None:
        directory = Path(settings.key_dir)
        if not any(directory.glob("field-*.key")) or not rotation.rows_under_older_keys(
            database, encryption.load(settings)
        ):
            print(f"made field key {encryption.rotate(directory)} in {directory}")
        else:
            print("the last rotation has not ended; going on with it")
    return encryption.load(settings)
