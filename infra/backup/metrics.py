"""The scheduled backups as `/metrics` shows them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from infra.backup.names import DAILY, HOURLY
from infra.backup.schedule import state


class BackupMetrics(Collector):
    """Read anew at each scrape from what the last scheduled backups left in the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def collect(self) -> Iterable[Metric]:
        found = state(self._data_dir)
        cut = GaugeMetricFamily(
            "brokage_backup_cut_timestamp_seconds", "Moment of the last scheduled backup", labels=["schedule"]
        )
        size = GaugeMetricFamily("brokage_backup_bytes", "Size of the last scheduled backup", labels=["schedule"])
        pause = GaugeMetricFamily(
            "brokage_backup_pause_seconds", "For how long it held the relays", labels=["schedule"]
        )
        for schedule in (DAILY, HOURLY):
            if last := found.get(schedule):
                cut.add_metric([schedule], datetime.fromisoformat(last["taken_at"]).timestamp())
                size.add_metric([schedule], last["bytes"])
                pause.add_metric([schedule], last["pause_milliseconds"] / 1000)
        failed = GaugeMetricFamily("brokage_backup_failed", "1 if the last scheduled backup failed")
        failed.add_metric([], 1 if found.get("failed") else 0)
        return [cut, size, pause, failed]
