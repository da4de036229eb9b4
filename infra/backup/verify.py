"""Whether a backup is worth something: its files are what was written, and a system comes up from it and proves itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.backup import manifest
from infra.backup.repository import Plan
from infra.backup.restore import restore
from infra.runtime.children import ROOT
from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import RuntimeFailure

PROOFS = (("reconcile",), ("audit", "verify"), ("ledger", "verify"))
_START_SECONDS = 180.0
_PROOF_SECONDS = 3600.0
_STOP_SECONDS = 30.0


def check_files(directory: Path) -> list[str]:
    """What is wrong with a backup's files; nothing, if it is as it was written."""
    return list(manifest.problems(directory, manifest.read(directory)))


def check_by_starting(plan: Plan, say: Callable[[str], None]) -> bool:
    """Restore into a temporary directory, bring the system up there and let it prove itself; whether it could.

    Raises:
        RuntimeFailure: it cannot be restored, or does not start.
    """
    # Not below a directory of ours alone: as root, Postgres runs as somebody else, who must be able to enter.
    place = Path(tempfile.mkdtemp(prefix="brokage-verify-"))
    place.chmod(0o711)
    try:
        began = time.monotonic()
        restored = restore(plan, DataDirectory(place / "data"))
        say(f"restored in {time.monotonic() - began:.1f} s, {restored.documents:,} documents")
        with _running(place) as environment:
            proven = [_prove(proof, environment, say) for proof in PROOFS]
        return all(proven)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _running(place: Path) -> Iterator[dict[str, str]]:
    # Nothing of our own settings: it must reach no other server, send no mail and make no backups.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    environment["BROKAGE_DATA_DIR"] = str(place / "data")
    output = place / "up.log"
    with output.open("w", encoding="utf-8") as stream:
        up = subprocess.Popen(
            [sys.executable, "-m", "infra", "up", "--port", "0"],
            env=environment,
            cwd=place,  # where it leaves its pointer
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while "\nready " not in output.read_text(encoding="utf-8"):
            if up.poll() is not None or time.monotonic() > deadline:
                last = (output.read_text(encoding="utf-8").strip() or "it said nothing").splitlines()[-1]
                raise RuntimeFailure(f"the restored system does not start: {last}")
            time.sleep(0.1)
        yield environment
    finally:
        up.terminate()
        try:
            up.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


def _prove(proof: tuple[str, ...], environment: dict[str, str], say: Callable[[str], None]) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "infra", *proof],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_PROOF_SECONDS,
        check=False,
    )
    for line in (done.stdout + done.stderr).splitlines():
        say(f"  {line}")
    return done.returncode == 0
