"""The trail as a file."""

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from auditor.export import FIELDS, ExportFormat, export


def create_record(**values: Any) -> dict[str, Any]:
    record = dict.fromkeys(FIELDS)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return {"_id": "e", **record, "seq": 1, "timestamp": moment, "new_value": {"a": "ğ"}, **values}


def csv_rows(*records: dict[str, Any]) -> list[list[str]]:
    text = b"".join(export(records, ExportFormat.CSV)).decode()
    return list(csv.reader(io.StringIO(text, newline="")))


class TestCsv:
    def test_the_first_row_names_the_fields(self) -> None:
        header, row = csv_rows(create_record())
        assert header == list(FIELDS)
        assert row[header.index("timestamp")] == "2026-01-01T00:00:00.000Z"
        assert json.loads(row[header.index("new_value")]) == {"a": "ğ"}

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\0"])
    def test_a_cell_that_a_spreadsheet_would_run_is_quoted(self, start: str) -> None:
        _, row = csv_rows(create_record(action=f"{start}cmd|' /C calc'!A0"))
        assert row[FIELDS.index("action")] == f"'{start}cmd|' /C calc'!A0"

    def test_a_negative_number_stays_a_number(self) -> None:
        _, row = csv_rows(create_record(user_id=-1))
        assert row[FIELDS.index("user_id")] == "-1"

    def test_cells_with_separators_and_line_breaks_stay_one_cell(self) -> None:
        _, row = csv_rows(create_record(entity_id='a,"b"\nc'))
        assert row[FIELDS.index("entity_id")] == 'a,"b"\nc'


class TestNdjson:
    def test_each_line_is_one_record_without_the_stores_own_id(self) -> None:
        lines = b"".join(export([create_record(), create_record(seq=2)], ExportFormat.NDJSON)).splitlines()
        assert [json.loads(line)["seq"] for line in lines] == [1, 2]
        assert list(json.loads(lines[0])) == list(FIELDS)


def test_records_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def stream() -> Any:
        for seq in range(1000):
            taken.append(seq)
            yield create_record(seq=seq)

    next(export(stream(), ExportFormat.NDJSON))
    assert len(taken) < 1000
