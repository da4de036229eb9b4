"""`logs`: what the processes wrote."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import DataDir

FOLLOW_SECONDS = 0.25
BLOCK_BYTES = 256 * 1024


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    name: Annotated[str | None, typer.Argument(help="A process as `status` names it; without one, all.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines, of each.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Print the last lines of the logs; the system need not be running."""
    files = _files(name, data_dir)
    width = max(len(file.stem) for file in files)
    positions = {}
    for file in files:
        content, positions[file] = _tail(file)
        _print(file, content.splitlines()[-lines:] if lines else [], width if len(files) > 1 else 0)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        for file in files:
            content, positions[file] = _news(file, positions[file])
            _print(file, content.splitlines(), width if len(files) > 1 else 0)


def _files(name: str | None, data_dir: Path | None) -> list[Path]:
    from infra.runtime.failures import NoSystem
    from infra.runtime.running import locate

    directory = locate(data_dir) / "logs"
    known = sorted(directory.glob("*.log"))
    if not known:
        raise NoSystem(f"there are no logs in {directory}")
    files = [file for file in known if name in (None, file.stem)]
    if not files:
        raise NoSystem(f"there is no log of {name}; there are {', '.join(file.stem for file in known)}")
    return files


def _tail(file: Path) -> tuple[str, int]:
    with file.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(max(0, end - BLOCK_BYTES))
        return stream.read().decode(errors="replace"), end


def _news(file: Path, position: int) -> tuple[str, int]:
    size = file.stat().st_size
    # Shorter than before: it was cut because it had grown too large.
    with file.open("rb") as stream:
        stream.seek(position if size >= position else 0)
        content = stream.read()
        return content.decode(errors="replace"), stream.tell()


def _print(file: Path, lines: list[str], width: int) -> None:
    prefix = f"{file.stem:<{width}}  " if width else ""
    for line in lines:
        print(f"{prefix}{line}", flush=True)
