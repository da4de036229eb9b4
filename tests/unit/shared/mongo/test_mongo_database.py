"""Which errors of the store pass, which mean that something is there already; and the guarded upsert."""

from datetime import UTC, datetime
from typing import Any

import mongomock
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from shared.db.engine import DatabaseUnavailable
from shared.mongo import MongoDatabase, is_duplicate, is_transient, milliseconds
from shared.mongo.principals import guarded_upsert

_TAKEN = {"index": 0, "code": 11000}


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("gone"),
        ServerSelectionTimeoutError("nobody there"),
        WTimeoutError("slow", 64),
        BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}),
        OperationFailure("stepping down", 11602, {"errorLabels": ["RetryableWriteError"]}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_pass(error: Exception) -> None:
    assert is_transient(error)
    assert not is_duplicate(error)


@pytest.mark.parametrize("error", [OperationFailure("no such command", 59), ValueError(), DuplicateKeyError("taken")])
def test_errors_that_do_not_pass(error: Exception) -> None:
    assert not is_transient(error)


def test_duplicates_are_told_from_other_write_errors() -> None:
    assert is_duplicate(DuplicateKeyError("taken"))
    assert is_duplicate(BulkWriteError({"writeErrors": [_TAKEN, _TAKEN], "writeConcernErrors": []}))
    assert not is_duplicate(BulkWriteError({"writeErrors": [_TAKEN, {"code": 2}], "writeConcernErrors": []}))
    # Taken by a write that no majority has confirmed is not there for sure.
    assert not is_duplicate(BulkWriteError({"writeErrors": [_TAKEN], "writeConcernErrors": [{"code": 64}]}))


def test_moments_are_cut_to_what_the_store_keeps() -> None:
    assert milliseconds(datetime(2026, 1, 1, 0, 0, 0, 999999, tzinfo=UTC)).microsecond == 999000


def test_a_store_that_is_away_is_said_to_be_unavailable() -> None:
    database = MongoDatabase("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", "nowhere")
    with pytest.raises(DatabaseUnavailable):
        database.ping()
    database.close()


class TestGuardedUpsert:
    @pytest.fixture
    def things(self) -> Any:
        return mongomock.MongoClient()["test"]["things"]

    def apply(self, things: Any, version: int) -> None:
        for request in guarded_upsert({"_id": "1", "text": f"v{version}", "version": version}, "version"):
            things.update_one(request._filter, request._doc, upsert=bool(request._upsert))

    @pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 3, 1)])
    def test_the_newest_version_stays_whatever_the_order(self, things: Any, order: tuple[int, ...]) -> None:
        for version in order:
            self.apply(things, version)
        assert list(things.find()) == [{"_id": "1", "text": "v3", "version": 3}]
