"""The way back: into a data directory in which nothing runs. What was there is moved aside, and back again if this fails."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.backup import documents, manifest, repair
from infra.backup.manifest import Manifest
from infra.backup.repository import Plan
from infra.backup.take import BASE, SYSTEM, SYSTEM_FILES, SYSTEM_FOLDERS, WAL
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores
from infra.runtime.data_directory import UNFINISHED, DataDirectory
from infra.runtime.failures import CannotStart, RuntimeFailure, StartFailed
from infra.servers import DATABASE_VARIABLES, EmbeddedServers, PostgresServer

ASIDE = "before-restore"
SERVERS = ("postgres", "mongo", "valkey")
_RECOVERY_SECONDS_MAX = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Restored:
    """`reached`: the last commit that is there, as the database's clock had it; None if there was none since the base backup.
    `replayed`: how many batches go again to readers whose documents are older than the databases."""

    manifest: Manifest
    reached: datetime | None
    documents: int
    replayed: int
    aside: Path | None


def restore(plan: Plan, data: DataDirectory) -> Restored:
    """Bring the data directory to what `plan` says; nothing of it runs afterwards.

    Raises:
        CannotStart: the directory is in use, or the backup is damaged; nothing was changed. RuntimeFailure: it failed, and the
        directory is as it was.
    """
    if replaced := [name for name in DATABASE_VARIABLES if os.environ.get(name)]:
        raise CannotStart(f"{replaced[0]} names a server that is not ours; restore it by its own means")
    cut = manifest.read(plan.cut)
    for directory in {plan.base, plan.cut}:
        for problem in manifest.problems(directory, manifest.read(directory)):
            raise CannotStart(f"{directory} is damaged: {problem}")
    data.open()
    try:
        data.stop_orphans()
        with _aside(data) as aside:
            _copy_system(plan.base / SYSTEM, data)
            reached = _recover(plan, cut, data)
            count, replayed = _load_documents(plan, data)
        return Restored(cut, reached, count, replayed, aside)
    finally:
        data.close()


@contextmanager
def _aside(data: DataDirectory) -> Iterator[Path | None]:
    """Move what is there aside; should the block fail, remove what it made and move it back."""
    mark = data.path / UNFINISHED
    # Checkpoints of the trail that goes aside say nothing of the one that comes.
    own = (*SERVERS, *SYSTEM_FOLDERS, *SYSTEM_FILES, data.audit_checkpoints.name)
    names = [name for name in own if "/" not in name]
    aside = None
    if mark.exists():  # an earlier one was killed: what it made is worth nothing
        _remove(data, names)
    elif (data.path / SERVERS[0]).exists():
        aside = data.path / f"{ASIDE}-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
        aside.mkdir(mode=0o711)
    mark.touch(mode=0o600)
    if aside:
        _move(names, data.path, aside)
    try:
        yield aside
    except BaseException:
        _remove(data, names)
        if aside:
            _move(names, aside, data.path)
            aside.rmdir()
        mark.unlink()
        raise
    mark.unlink()


def _move(names: list[str], origin: Path, target: Path) -> None:
    for name in names:
        if (origin / name).exists():
            (origin / name).rename(target / name)


def _remove(data: DataDirectory, names: list[str]) -> None:
    for name in names:
        path = data.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _copy_system(directory: Path, data: DataDirectory) -> None:
    shutil.copytree(directory, data.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("postgres"))
    data.path.chmod(0o711 if os.geteuid() == 0 else 0o700)


# -- postgres ------------------------------------------------------------------------------------------------------------


def _recover(plan: Plan, cut: Manifest, data: DataDirectory) -> datetime | None:
    """Unpack the base backup and let the server replay WAL as far as the plan says; stopped afterwards."""
    postgres = PostgresServer(data)
    postgres.prepare_home()
    segments = postgres.cluster.parent / "restore-wal"
    _unpack(plan.base, postgres.cluster, segments)
    settings = postgres.cluster / "postgresql.auto.conf"
    settings.write_text(_recovery_settings(plan, cut, segments), encoding="utf-8")
    (postgres.cluster / "recovery.signal").touch(mode=0o600)
    provisioned = plan.base / SYSTEM / "postgres" / "provisioned.json"
    shutil.copy2(provisioned, postgres.cluster.parent)
    postgres.give_tree(postgres.cluster.parent)
    try:
        postgres.prepare()
        postgres.spawn()
        postgres.process.wait_ready(_RECOVERY_SECONDS_MAX)
        with postgres.connect() as connection:
            row = connection.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()
    except StartFailed as failure:
        raise RuntimeFailure(f"the databases cannot be brought to that moment: {_why(data, failure)}") from failure
    finally:
        postgres.stop()
    settings.write_text("", encoding="utf-8")
    shutil.rmtree(segments)
    return row[0] if row else None


def _unpack(base: Path, cluster: Path, segments: Path) -> None:
    cluster.mkdir(mode=0o700)
    with tarfile.open(base / BASE / "base.tar.gz") as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(cluster, **safely)  # type: ignore[arg-type]
    (cluster / "pg_wal" / "archive_status").mkdir(parents=True, exist_ok=True)
    segments.mkdir(mode=0o700)
    for file in (base / WAL).glob("*.gz"):
        with gzip.open(file, "rb") as compressed, (segments / file.stem).open("wb") as segment:
            shutil.copyfileobj(compressed, segment, 1024 * 1024)


def _recovery_settings(plan: Plan, cut: Manifest, segments: Path) -> str:
    commands = [f'cp "{segments}/%f" "%p" 2>/dev/null']
    if plan.archive:
        archived = f"{plan.archive}/%f.gz"
        commands.append(f'( test -f "{archived}" && gzip -dc "{archived}" > "%p" )')
    command = " || ".join(commands).replace("'", "''")
    if plan.to is None:
        target = f"recovery_target_name = '{cut.name}'"
    else:
        target = f"recovery_target_time = '{plan.to.astimezone(UTC).isoformat()}'"
    return (
        f"restore_command = '{command}'\n{target}\nrecovery_target_action = 'promote'\n"
        "recovery_target_timeline = 'current'\n"
        # Else it says that it is ready as soon as it can be read, long before it has reached its target.
        "hot_standby = off\n"
    )


def _why(data: DataDirectory, failure: StartFailed) -> str:
    lines = data.log("postgres").read_text(encoding="utf-8", errors="replace").splitlines()
    fatal = [line.split("FATAL:")[1].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else str(failure)


# -- documents -----------------------------------------------------------------------------------------------------------


def _load_documents(plan: Plan, data: DataDirectory) -> tuple[int, int]:
    """How many documents; and how many batches go again, because the databases are of a later moment than the documents."""
    environ = {name: value for name, value in os.environ.items() if name == "BROKAGE_MONGO_URL"}
    with EmbeddedServers(data, environ=environ) as servers:
        count = documents.load(servers.environment["BROKAGE_MONGO_URL"], plan.cut / documents.FOLDER)
        if plan.is_exact:
            return count, 0
        with Stores(servers.environment, Settings()) as stores:
            return count, len(repair.replay(stores, repair.find(stores)))
