"""What a restore moves aside, and back again when it fails."""

from pathlib import Path

import pytest

from infra.backup.restore import _aside
from infra.runtime.data_directory import DataDirectory


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    data = DataDirectory(tmp_path)
    (data.path / "postgres").mkdir()
    data.audit_checkpoints.write_text("one\n")
    return data


def test_checkpoints_go_with_the_trail_they_are_about(data: DataDirectory) -> None:
    with _aside(data) as aside:
        assert aside is not None
        assert not data.audit_checkpoints.exists()
        assert (aside / data.audit_checkpoints.name).read_text() == "one\n"


def test_and_come_back_with_it_when_the_restore_fails(data: DataDirectory) -> None:
    with pytest.raises(RuntimeError, match="no"), _aside(data):
        raise RuntimeError("no")
    assert data.audit_checkpoints.read_text() == "one\n"
