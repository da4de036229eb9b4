"""Migrations of all Postgres services: which databases are behind, and how they are brought up to date."""

from __future__ import annotations

import configparser
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.runtime.failures import CannotStart, StartFailed
from infra.servers.postgres import DATABASES

ROOT = Path(__file__).resolve().parent.parent
# Section of alembic.ini, package and role share one name.
VARIABLES = {service: variable for service, (_, variable, _) in DATABASES.items()}
_REVISION = re.compile(r"^(down_)?revision\b[^=\n]*=(.*)$", re.MULTILINE)
_NAME = re.compile(r"[\"']([^\"']+)[\"']")


def sections() -> list[str]:
    """The sections of `alembic.ini` whose package is here; each is a service."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "alembic.ini", encoding="utf-8")
    return [name for name in config.sections() if (ROOT / name / "migrations" / "env.py").is_file()]


def migrate_all(environment: Mapping[str, str], services: Sequence[str] = ()) -> list[str]:
    """Bring the databases of `services` (default: all that have a section) to their newest revision, in this process.

    Args:
        environment: has the `BROKAGE_<X>_DATABASE_URL` of each.

    Returns:
        The services that were behind; two callers at once take turns.

    Raises:
        CannotStart: a URL is missing or the service has no migrations here.
        StartFailed: a database cannot be reached or refuses a migration; those before it are migrated.
    """
    changed = behind(environment, services)
    for service in changed:
        upgrade(service, environment[VARIABLES[service]])
    return changed


def behind(environment: Mapping[str, str], services: Sequence[str] = ()) -> list[str]:
    """The services whose database is not at the newest revision. Alembic is not needed to tell, nor loaded."""
    known = sections()
    for service in services or known:
        if service not in known:
            raise CannotStart(f"{service} has no migrations here; known are {', '.join(known)}")
        if not environment.get(VARIABLES[service]):
            raise CannotStart(f"{VARIABLES[service]} is not set")
    return [name for name in services or known if _revisions(name, environment[VARIABLES[name]]) != heads(name)]


def heads(service: str) -> set[str]:
    """The revisions that no other follows, read from the scripts without running them."""
    revisions: set[str] = set()
    followed: set[str] = set()
    for script in (ROOT / service / "migrations" / "versions").glob("*.py"):
        for down, value in _REVISION.findall(script.read_text(encoding="utf-8")):
            (followed if down else revisions).update(_NAME.findall(value))
    return revisions - followed


def _revisions(service: str, url: str) -> set[str]:
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            if connection.execute("SELECT to_regclass('alembic_version') IS NULL").fetchone() == (True,):
                return set()
            return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}
    except psycopg.Error as error:
        raise StartFailed(f"the database of {service} does not answer: {_line(error)}") from error


def upgrade(service: str, url: str, revision: str = "heads") -> None:
    import sqlalchemy.exc
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from shared.encryption import FieldKeysUnusable

    config = Config(str(ROOT / "alembic.ini"), ini_section=service, cmd_opts=Namespace(x=[f"url={url}"]))
    # Absolute, so that the caller's working directory does not matter.
    config.set_section_option(service, "script_location", str(ROOT / service / "migrations").replace("%", "%%"))
    config.set_section_option(service, "prepend_sys_path", str(ROOT).replace("%", "%%"))
    try:
        command.upgrade(config, revision)
    except (CommandError, sqlalchemy.exc.SQLAlchemyError, FieldKeysUnusable) as error:
        raise StartFailed(f"{service} cannot be migrated: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
