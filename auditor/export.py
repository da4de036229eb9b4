"""The trail as a file: NDJSON for machines, CSV for spreadsheets. Streams; memory does not grow with the trail."""

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

import msgspec

from auditor.chain import timestamp_text
from shared.mongo import Document

FIELDS = (
    "seq",
    "event_id",
    "timestamp",
    "action",
    "user_id",
    "role",
    "entity_type",
    "entity_id",
    "old_value",
    "new_value",
    "metadata",
    "correlation_id",
    "prev_hash",
    "hash",
)
_CHUNK = 200
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")


class ExportFormat(StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        return "application/x-ndjson" if self is ExportFormat.NDJSON else "text/csv; charset=utf-8"


def export(records: Iterable[Document], format: ExportFormat) -> Generator[bytes, None, None]:
    """The file in chunks of some 200 records."""
    return _ndjson(records) if format is ExportFormat.NDJSON else _csv(records)


def _ndjson(records: Iterable[Document]) -> Generator[bytes, None, None]:
    encode = msgspec.json.Encoder().encode
    yield from _chunks(records, lambda chunk: b"".join(encode(exported(record)) + b"\n" for record in chunk))


def _csv(records: Iterable[Document]) -> Generator[bytes, None, None]:
    yield _rows([FIELDS])
    yield from _chunks(records, lambda chunk: _rows([_cells(record) for record in chunk]))


def _chunks(records: Iterable[Document], render: Callable[[list[Document]], bytes]) -> Iterator[bytes]:
    iterator = iter(records)
    while chunk := list(islice(iterator, _CHUNK)):
        yield render(chunk)


def exported(record: Document) -> Document:
    """A record as the API shows it."""
    shown = {name: record.get(name) for name in FIELDS}
    timestamp = shown["timestamp"]
    return {**shown, "timestamp": timestamp_text(timestamp) if isinstance(timestamp, datetime) else timestamp}


def _rows(rows: Iterable[Iterable[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode()


def _cells(record: Document) -> list[str]:
    return [_cell(value) for value in exported(record).values()]


def _cell(value: Any) -> str:
    """Text that a spreadsheet shows and does not run; numbers stay numbers, the negative ones too."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    text = msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
