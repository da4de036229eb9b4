"""How many statements a batch takes, read from the log of the server itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from infra.bench.system import BenchSystem

_PREFIX = "%p|%a|"
_LINE = re.compile(r"^(\d+)\|([^|]*)\|LOG:  (?:statement|execute [^:]*): (.*)$")
# What opens, closes and orders transactions is no work of a stage.
_FRAME = re.compile(
    r"^\s*(BEGIN|COMMIT|ROLLBACK|SET|SHOW|NOTIFY|SAVEPOINT|RELEASE|SELECT\s+pg_advisory)", re.IGNORECASE
)
_SETTLES = re.compile(r"INSERT INTO (ledger_|settlements)|UPDATE trades", re.IGNORECASE)


@contextlib.contextmanager
def logged(system: BenchSystem) -> Iterator[list[str]]:
    """The server's log of what runs meanwhile, with every statement; filled when the context ends."""
    log = Path(system.data_dir) / "logs" / "postgres.log"
    lines: list[str] = []
    position = log.stat().st_size
    _configure(system, f"ALTER SYSTEM SET log_line_prefix = '{_PREFIX}'", "ALTER SYSTEM SET log_statement = 'all'")
    try:
        yield lines
    finally:
        _configure(system, "ALTER SYSTEM RESET log_statement", "ALTER SYSTEM RESET log_line_prefix")
        with log.open("rb") as stream:
            stream.seek(position)
            lines += stream.read().decode(errors="replace").splitlines()


def _configure(system: BenchSystem, *statements: str) -> None:
    with system.connect() as connection:
        for statement in (*statements, "SELECT pg_reload_conf()"):
            connection.execute(statement)


def per_batch(lines: Iterable[str]) -> dict[str, int]:
    """The most statements that one transaction of a worker took, by stage: the service, and its settlements apart."""
    most: dict[str, int] = {}
    for application, statements in _transactions(lines):
        service, _, role = application.removeprefix("brokage ").partition(" ")
        if role != "worker":
            continue
        work = [statement for statement in statements if not _FRAME.match(statement)]
        stage = f"{service} settlement" if any(_SETTLES.search(statement) for statement in work) else service
        most[stage] = max(most.get(stage, 0), len(work))
    return dict(sorted(most.items()))


def _transactions(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Application and statements of each transaction that committed. Statements run on over lines that begin with a tab."""
    open_ones: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            if last and line.startswith("\t"):
                last[-1] += "\n" + line
            continue
        backend, application, statement = found.groups()
        if statement.upper().startswith("BEGIN"):
            open_ones[backend] = last = []
        elif backend not in open_ones:
            last = None
        elif statement.upper().startswith("COMMIT"):
            yield application, open_ones.pop(backend)
            last = None
        else:
            last = open_ones[backend]
            last.append(statement)
