"""The start file: children of `up` are started before the servers are up, and import while those start.

What a child must know is in a file that appears when the databases are migrated. A child that is restarted later finds
it there. Without `BROKAGE_START_FILE`, as in any deployment, there is nothing to wait for.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from infra.runtime.data_directory import write_private
from infra.runtime.identity import POLL_SECONDS

VARIABLE = "BROKAGE_START_FILE"
READY_VARIABLE = "BROKAGE_READY_FILE"


def open_gate(file: Path, environment: Mapping[str, str]) -> None:
    """Let the children go on, with `environment` added to theirs."""
    write_private(file, json.dumps(dict(environment)))


def pass_gate(stop: threading.Event) -> bool:
    """Wait until the gate is open and take over what it says; False when `stop` was set first."""
    if not (name := os.environ.get(VARIABLE)):
        return True
    file = Path(name)
    while not file.exists():
        if stop.wait(POLL_SECONDS):
            return False
    os.environ.update(json.loads(file.read_text(encoding="utf-8")))
    return True


def tell_ready() -> None:
    """Touch the file that whoever started this process looks at, if it named one."""
    if name := os.environ.get(READY_VARIABLE):
        Path(name).touch()
