"""Which databases a command means."""

from __future__ import annotations

import logging
import os
from pathlib import Path


def use_databases(data_dir: Path | None, *variables: str) -> dict[str, str]:
    """The settings that name the databases: those of the running system in `data_dir`, else our own in a deployment, else
    those of the system that `find_system` finds. This process takes them over.

    Args:
        variables: that the command needs; without any, the URLs of all databases.

    Raises:
        NoSystem: neither are there.
    """
    from infra.runtime.running import find_system
    from infra.servers import DATABASE_VARIABLES

    wanted = variables or (*DATABASE_VARIABLES, "BROKAGE_MONGO_URL")
    # A pool says at every attempt that it cannot connect; the command says it once.
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
    # The option also takes BROKAGE_DATA_DIR, which a service's own environment has too: there it asks for nothing else.
    asked_for = data_dir is not None and str(data_dir) != os.environ.get("BROKAGE_DATA_DIR")
    if asked_for or not all(os.environ.get(variable) for variable in wanted):
        find_system(data_dir).apply_to_environ()
    return {name: value for name, value in os.environ.items() if name.startswith("BROKAGE_")}
