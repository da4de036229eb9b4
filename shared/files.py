"""Files that appear whole or not at all, also after a power cut."""

import os
from pathlib import Path


def write_once(path: Path, data: bytes, mode: int) -> None:
    """Make a new file.

    Raises:
        FileExistsError: it is there already, and stays as it is.
    """
    temporary = _written(path, data, mode)
    try:
        os.link(temporary, path)  # unlike rename, it does not replace
    finally:
        temporary.unlink()
    _sync_directory(path.parent)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file over what was there: a reader sees the old one or the new one."""
    _written(path, data, mode).rename(path)
    _sync_directory(path.parent)


def _written(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
