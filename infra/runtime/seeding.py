"""The seed of a data directory: run at its first start, and again only when there is something else to seed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from infra.runtime.data_directory import DataDirectory, write_private
from infra.servers import DATABASE_VARIABLES

SOURCE = Path(__file__).resolve().parent.parent / "seed.py"


class Seeding:
    """What one start asks of the seed. Running it again would change nothing, but takes a second that a start can save."""

    def __init__(self, data: DataDirectory, demo: bool) -> None:
        self._demo = demo
        self._lines = data.path / "seed.json"
        self._done = data.path / "seeded"
        self.command = ["seed", "--output", str(self._lines), *(["--demo"] if demo else [])]

    def is_done(self) -> bool:
        """Whether exactly this was put in before. Databases that are not ours may have been emptied since: never for them."""
        if any(os.environ.get(variable) for variable in DATABASE_VARIABLES) or not self._lines.exists():
            return False
        return self._done.exists() and self._done.read_text(encoding="utf-8") == self._digest()

    def note_done(self) -> None:
        """Call when the command has succeeded."""
        write_private(self._done, self._digest())

    def lines(self) -> list[str]:
        """What the seed had to say: how to sign in."""
        said: list[str] = json.loads(self._lines.read_text(encoding="utf-8"))
        return said

    def _digest(self) -> str:
        return f"{self._demo} {hashlib.sha256(SOURCE.read_bytes()).hexdigest()}"
