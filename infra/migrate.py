"""Bring every Postgres service's database to its newest migration."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Alembic's section, the package and the role share one name.
URL_VARIABLES = {
    "order_service": "BROKAGE_ORDERS_DATABASE_URL",
    "asset_service": "BROKAGE_ASSETS_DATABASE_URL",
    "customer_service": "BROKAGE_CUSTOMERS_DATABASE_URL",
    "processor": "BROKAGE_PROCESSOR_DATABASE_URL",
}
_REVISION = re.compile(r"^(down_)?revision\b[^=\n]*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)


def migrate_all(environment: Mapping[str, str]) -> list[str]:
    """Upgrade every database that is not at its head, in this process.

    Services whose package is not here are left alone: a deployment may hold only some of them.

    Returns:
        The services that were upgraded.
    """
    behind = [service for service in pending(environment) if (ROOT / service / "migrations").is_dir()]
    if not behind:
        return []
    from alembic import command
    from alembic.config import Config

    with _environment(environment):
        for service in behind:
            config = Config(str(ROOT / "alembic.ini"), ini_section=service)
            # Relative in the file, so that `alembic -n` works from the root; absolute here, for any working directory.
            config.set_main_option("script_location", str(ROOT / service / "migrations").replace("%", "%%"))
            command.upgrade(config, "head")
    return behind


def pending(environment: Mapping[str, str]) -> list[str]:
    """Name the services whose database is not at the head of its migrations, without importing Alembic."""
    return [
        service
        for service, variable in URL_VARIABLES.items()
        if variable in environment and _current(environment[variable]) != _heads(service)
    ]


def _heads(service: str) -> set[str]:
    revisions: set[str] = set()
    followed: set[str] = set()
    for file in (ROOT / service / "migrations" / "versions").glob("*.py"):
        for down, name in _REVISION.findall(file.read_text(encoding="utf-8")):
            (followed if down else revisions).add(name)
    return revisions - followed


def _current(url: str) -> set[str]:
    import psycopg

    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        if connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone() != (True,):
            return set()
        return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Each service's `env.py` reads its URL from the environment."""
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
