"""When scheduled backups are due, which one a restore begins with, and what is deleted. No server; manifests by hand."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.backup import manifest, repository, schedule
from infra.backup.manifest import DOCUMENTS, FULL, Manifest
from infra.backup.metrics import BackupMetrics
from infra.backup.names import DAILY, HOURLY, WAL, new_name
from infra.backup.settings import BackupSettings
from infra.backup.take import segment_name, segment_number
from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEPT = {"full_kept": timedelta(days=30), "wal_kept": timedelta(days=7)}


def make(home: Path, folder: str, moment: datetime, segment: int = 1) -> Path:
    directory = home / folder / new_name(moment)
    directory.mkdir(parents=True)
    made = Manifest(
        kind=FULL if folder == DAILY else DOCUMENTS,
        name="brokage-x",
        taken_at=moment,
        timeline=1,
        lsn="0/3000090",
        pause_milliseconds=1.0,
        seconds=1.0,
        segments=[segment_name(1, segment)],
        documents={},
        files={},
    )
    manifest.write(directory, made)
    return directory


class TestIsDue:
    def test_a_full_one_each_day_and_a_cut_each_hour(self, tmp_path: Path) -> None:
        settings = BackupSettings.of({"BROKAGE_BACKUP_DIR": str(tmp_path)})
        assert schedule.is_due(settings, NOW) == DAILY
        make(tmp_path, DAILY, NOW)
        assert schedule.is_due(settings, NOW + timedelta(minutes=59)) is None
        assert schedule.is_due(settings, NOW + timedelta(minutes=60)) == HOURLY
        make(tmp_path, HOURLY, NOW + timedelta(minutes=60))
        assert schedule.is_due(settings, NOW + timedelta(minutes=119)) is None
        assert schedule.is_due(settings, NOW + timedelta(hours=24)) == DAILY

    def test_one_that_was_not_finished_does_not_count(self, tmp_path: Path) -> None:
        (tmp_path / DAILY / new_name(NOW)).mkdir(parents=True)
        settings = BackupSettings.of({"BROKAGE_BACKUP_DIR": str(tmp_path)})
        assert schedule.is_due(settings, NOW) == DAILY


class TestSettings:
    def test_without_a_directory_nothing_is_scheduled(self) -> None:
        assert BackupSettings.of({}) == BackupSettings()
        assert BackupSettings().directory is None

    def test_times_are_seconds(self, tmp_path: Path) -> None:
        given = {"BROKAGE_BACKUP_DIR": str(tmp_path), "BROKAGE_BACKUP_CUT_SECONDS": "60"}
        assert BackupSettings.of(given) == BackupSettings(directory=tmp_path, cut_seconds=60)
        with pytest.raises(CannotStart, match="is no number"):
            BackupSettings.of({"BROKAGE_BACKUP_CUT_SECONDS": "soon"})


class TestPlan:
    def test_a_moment_begins_with_the_last_full_backup_and_the_last_cut_before_it(self, tmp_path: Path) -> None:
        first = make(tmp_path, DAILY, NOW)
        cut = make(tmp_path, HOURLY, NOW + timedelta(hours=1))
        second = make(tmp_path, DAILY, NOW + timedelta(hours=24))
        moment = NOW + timedelta(hours=2)
        plan = repository.plan(tmp_path, moment)
        assert (plan.base, plan.cut, plan.archive, plan.is_exact) == (first, cut, tmp_path / WAL, False)
        assert repository.plan(first, moment) == plan
        last = repository.plan(tmp_path, None)
        assert (last.base, last.cut, last.is_exact) == (second, second, True)

    def test_without_a_moment_the_last_cut_is_reached_exactly(self, tmp_path: Path) -> None:
        base, cut = make(tmp_path, DAILY, NOW), make(tmp_path, HOURLY, NOW + timedelta(hours=1))
        plan = repository.plan(tmp_path, None)
        assert (plan.base, plan.cut, plan.is_exact) == (base, cut, True)

    def test_what_cannot_be_is_refused(self, tmp_path: Path) -> None:
        alone = make(tmp_path / "elsewhere", DAILY, NOW).rename(tmp_path / "alone")
        cut = make(tmp_path / "home", HOURLY, NOW)
        make(tmp_path / "home", DAILY, NOW)
        for directory, to, reason in (
            (tmp_path / "nothing", None, "is no backup"),
            (alone, NOW + timedelta(seconds=1), "no WAL beyond"),
            (alone, NOW - timedelta(seconds=1), "earlier moments need an earlier backup"),
            (cut, None, "holds documents only"),
            (tmp_path / "home", NOW - timedelta(seconds=1), "no full backup so early"),
        ):
            with pytest.raises(CannotStart, match=reason):
                repository.plan(directory, to)


class TestPrune:
    def test_full_ones_are_kept_30_days_cuts_and_wal_7(self, tmp_path: Path) -> None:
        ages = (40, 9, 8, 1)
        full = {days: make(tmp_path, DAILY, NOW - timedelta(days=days), 100 - days) for days in ages}
        cuts = {days: make(tmp_path, HOURLY, NOW - timedelta(days=days)) for days in (8, 6)}
        (tmp_path / WAL).mkdir()
        wal = {number: tmp_path / WAL / f"{segment_name(1, number)}.gz" for number in (91, 92, 93)}
        for number, file in wal.items():
            file.touch()
            made = (NOW - timedelta(days=100 - number)).timestamp()
            os.utime(file, (made, made))
        gone = repository.prune(tmp_path, **KEPT, now=NOW)
        # The window's first moment begins with the full backup of 8 days ago, at segment 92.
        assert gone == [full[40], cuts[8], wal[91]]
        assert all(not path.exists() for path in gone)

    def test_the_last_full_one_stays_however_old(self, tmp_path: Path) -> None:
        make(tmp_path, DAILY, NOW - timedelta(days=50))
        last = make(tmp_path, DAILY, NOW - timedelta(days=45))
        repository.prune(tmp_path, **KEPT, now=NOW)
        assert list((tmp_path / DAILY).iterdir()) == [last]


class TestSegments:
    def test_a_place_in_the_wal_names_its_file(self) -> None:
        assert segment_name(1, segment_number("0/3000090")) == "000000010000000000000003"
        assert segment_name(2, segment_number("1/FF000000")) == "0000000200000001000000FF"
        assert segment_number("0/3000000") == 3
        assert segment_number("0/3000000", ends=True) == 2


class TestWhatIsShown:
    def test_status_and_metrics_tell_of_the_last_ones(self, tmp_path: Path) -> None:
        assert list(schedule.lines(schedule.state(tmp_path))) == []
        done = {"taken_at": NOW.isoformat(), "bytes": 8_800_000, "seconds": 2.8, "pause_milliseconds": 31.25}
        data = DataDirectory(tmp_path)
        schedule.note(data, {DAILY: done, "failed": {"at": NOW.isoformat(), "reason": "the disk is full"}})
        assert list(schedule.lines(schedule.state(tmp_path))) == [
            "backup daily                 2026-11-21T12:00:00Z, 8.8 MB in 2.8 s, pause 31.25 ms",
            "backup failed                2026-11-21T12:00:00Z: the disk is full",
        ]
        samples = {
            (s.name, s.labels.get("schedule")): s.value for m in BackupMetrics(tmp_path).collect() for s in m.samples
        }
        assert samples == {
            ("brokage_backup_cut_timestamp_seconds", DAILY): NOW.timestamp(),
            ("brokage_backup_bytes", DAILY): 8_800_000,
            ("brokage_backup_pause_seconds", DAILY): 0.03125,
            ("brokage_backup_failed", None): 1,
        }
