"""Which databases a command means."""

from __future__ import annotations

import os
from pathlib import Path


def use_databases(data_dir: Path | None) -> dict[str, str]:
    """The settings that name the databases: our own in a deployment, else those of the running system, which this process
    takes over.

    Raises:
        NoSystem: neither are there.
    """
    from infra.runtime.running import find_system
    from infra.servers import DATABASE_VARIABLES

    wanted = (*DATABASE_VARIABLES, "BROKAGE_MONGO_URL")
    if not all(os.environ.get(variable) for variable in wanted):
        find_system(data_dir).apply_to_environ()
    return {name: value for name, value in os.environ.items() if name.startswith("BROKAGE_")}
