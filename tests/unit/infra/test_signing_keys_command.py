"""`brokage signing-keys`, as a person types it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infra.commands import signing_keys
from infra.runtime.failures import RuntimeFailure
from shared.auth import keys


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keys.ensure(tmp_path)
    monkeypatch.setenv("BROKAGE_KEY_DIR", str(tmp_path))
    return tmp_path


def run(*words: str) -> str:
    app = typer.Typer()
    signing_keys.register(app)
    result = CliRunner().invoke(app, ["signing-keys", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_rotate_list_and_revoke(directory: Path) -> None:
    first = keys.load_signing_key(directory).kid
    second = run("rotate").split()[0]
    assert json.loads(run("list", "--json")) == [
        {"kid": second, "state": "next"},
        {"kid": first, "state": "signs"},
    ]
    assert run("revoke", first) == f"{first} is gone; {second} signs\n"
    assert run("list") == f"{second}  signs\n"


def test_revoking_what_is_not_there_is_said(directory: Path) -> None:
    with pytest.raises(RuntimeFailure):
        run("revoke", "nobody")
