"""`signing-keys`: the keys that sign access tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import DataDir, Json

VARIABLE = "BROKAGE_KEY_DIR"


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True)
    keys.command(name="list")(list_keys)
    keys.command()(rotate)
    keys.command()(revoke)
    app.add_typer(keys, name="signing-keys")


def list_keys(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Every key of `BROKAGE_KEY_DIR`, or else of the running system: which signs, which comes next, which only verify."""
    from shared.auth import keys

    found = keys.list_keys(_directory(data_dir))
    if as_json:
        print(json.dumps([{"kid": kid, "state": state} for kid, state in found]))
    else:
        print("\n".join(f"{kid}  {state}" for kid, state in found))


def rotate(data_dir: DataDir = None) -> None:
    """Publish a new key now and sign with it a few seconds later, when everybody knows it. Nobody has to sign in again."""
    from shared.auth import keys

    kid = keys.rotate(_directory(data_dir))
    print(f"{kid} is published and signs in {keys.SIGNS_AFTER_SECONDS:.0f} s")


def revoke(kid: Annotated[str, typer.Argument(help="The key's id.")], data_dir: DataDir = None) -> None:
    """Take away a key that somebody else may have: its tokens stop working within seconds. Their owners refresh."""
    from infra.runtime.failures import RuntimeFailure
    from shared.auth import keys

    try:
        signing = keys.revoke(_directory(data_dir), kid)
    except keys.NoSuchKey:
        raise RuntimeFailure("there is no such key; `brokage signing-keys list` shows those there are") from None
    print(f"{kid} is gone; {signing} signs")


def _directory(data_dir: Path | None) -> Path:
    from infra.commands.environment import use_databases

    return Path(use_databases(data_dir, VARIABLE)[VARIABLE])
