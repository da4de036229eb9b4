"""Unique, sparse, partial, compound and TTL indexes."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, OperationFailure

Things = Collection[dict[str, Any]]


class TestUniqueIndex:
    def test_second_document_with_the_key_is_refused_and_says_which(self, collection: Things) -> None:
        collection.create_index("event_id", unique=True)
        collection.insert_one({"_id": "a", "event_id": "e1"})
        with pytest.raises(DuplicateKeyError) as refused:
            collection.insert_one({"_id": "b", "event_id": "e1"})
        assert refused.value.code == 11000
        assert refused.value.details is not None
        assert refused.value.details["keyPattern"] == {"event_id": 1}
        assert refused.value.details["keyValue"] == {"event_id": "e1"}
        assert collection.count_documents({}) == 1

    def test_same_id_is_refused(self, collection: Things) -> None:
        collection.insert_one({"_id": "a"})
        with pytest.raises(DuplicateKeyError) as refused:
            collection.insert_one({"_id": "a", "other": 1})
        assert refused.value.details is not None
        assert refused.value.details["keyPattern"] == {"_id": 1}

    def test_integer_and_double_of_one_value_are_one_key(self, collection: Things) -> None:
        collection.create_index("n", unique=True)
        collection.insert_one({"_id": "a", "n": 1})
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"_id": "b", "n": 1.0})
        collection.insert_one({"_id": "c", "n": True})

    def test_compound_key_is_unique_as_a_whole(self, collection: Things) -> None:
        collection.create_index([("customer_id", ASCENDING), ("event_id", ASCENDING)], unique=True)
        collection.insert_many([{"customer_id": 1, "event_id": "a"}, {"customer_id": 2, "event_id": "a"}])
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"customer_id": 2, "event_id": "a"})

    def test_missing_field_counts_as_null_unless_sparse(self, collection: Things) -> None:
        collection.create_index("plain", unique=True)
        collection.insert_one({"_id": "a"})
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"_id": "b"})

    def test_sparse_index_leaves_missing_fields_out(self, collection: Things) -> None:
        collection.create_index("seq", unique=True, sparse=True)
        collection.insert_many([{"_id": "a"}, {"_id": "b"}, {"_id": "c", "seq": 1}])
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"_id": "d", "seq": 1})
        assert [doc["_id"] for doc in collection.find({"seq": None}).sort("_id", 1)] == ["a", "b"]
        assert [doc["_id"] for doc in collection.find().sort([("seq", 1), ("_id", 1)])] == ["a", "b", "c"]

    def test_partial_index_holds_only_what_its_filter_selects(self, collection: Things) -> None:
        collection.create_index("holder", unique=True, partialFilterExpression={"status": "ACTIVE"})
        collection.insert_many(
            [
                {"_id": "a", "holder": "h", "status": "RELEASED"},
                {"_id": "b", "holder": "h", "status": "RELEASED"},
                {"_id": "c", "holder": "h", "status": "ACTIVE"},
            ]
        )
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"_id": "d", "holder": "h", "status": "ACTIVE"})
        with pytest.raises(DuplicateKeyError):
            collection.update_one({"_id": "a"}, {"$set": {"status": "ACTIVE"}})
        assert collection.count_documents({"holder": "h"}) == 3
        assert collection.count_documents({"holder": "h", "status": "ACTIVE"}) == 1
        collection.update_one({"_id": "c"}, {"$set": {"status": "RELEASED"}})
        collection.update_one({"_id": "a"}, {"$set": {"status": "ACTIVE"}})

    def test_update_into_a_taken_key_changes_nothing(self, collection: Things) -> None:
        collection.create_index("n", unique=True)
        collection.insert_many([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])
        with pytest.raises(DuplicateKeyError):
            collection.update_one({"_id": "b"}, {"$set": {"n": 1, "touched": True}})
        assert collection.find_one({"_id": "b"}) == {"_id": "b", "n": 2}

    def test_array_elements_are_keys_of_their_own(self, collection: Things) -> None:
        collection.create_index("tags", unique=True)
        collection.insert_one({"_id": "a", "tags": ["x", "y", "x"]})
        with pytest.raises(DuplicateKeyError):
            collection.insert_one({"_id": "b", "tags": ["z", "y"]})
        assert collection.find_one({"tags": "y"}) == {"_id": "a", "tags": ["x", "y", "x"]}

    def test_index_over_existing_duplicates_is_refused(self, collection: Things) -> None:
        collection.insert_many([{"n": 1}, {"n": 1}])
        with pytest.raises(DuplicateKeyError):
            collection.create_index("n", unique=True)
        assert list(collection.index_information()) == ["_id_"]


class TestIndexList:
    def test_name_direction_and_options_are_listed(self, collection: Things) -> None:
        collection.create_indexes(
            [
                IndexModel([("entity_type", ASCENDING), ("timestamp", DESCENDING)]),
                IndexModel("seq", unique=True, name="by_seq"),
                IndexModel("created_at", expireAfterSeconds=3600),
                IndexModel("x", partialFilterExpression={"y": {"$exists": True}}),
                IndexModel("z", sparse=True),
            ]
        )
        listed = collection.index_information()
        assert listed["entity_type_1_timestamp_-1"]["key"] == [("entity_type", 1), ("timestamp", -1)]
        assert listed["by_seq"]["unique"] is True
        assert listed["created_at_1"]["expireAfterSeconds"] == 3600
        assert listed["x_1"]["partialFilterExpression"] == {"y": {"$exists": True}}
        assert listed["z_1"]["sparse"] is True

    def test_creating_twice_is_the_same_index_and_a_difference_is_refused(self, collection: Things) -> None:
        collection.create_index("a", unique=True)
        collection.create_index("a", unique=True)
        assert len(collection.index_information()) == 2
        with pytest.raises(OperationFailure) as same_name:
            collection.create_index("a")
        assert same_name.value.code == 86
        with pytest.raises(OperationFailure) as same_key:
            collection.create_index("a", unique=True, name="other")
        assert same_key.value.code == 85

    def test_drop_of_an_index(self, collection: Things) -> None:
        collection.create_index("a", unique=True)
        collection.insert_one({"a": 1})
        collection.drop_index("a_1")
        collection.insert_one({"a": 1})
        with pytest.raises(OperationFailure) as unknown:
            collection.drop_index("a_1")
        assert unknown.value.code == 27
        with pytest.raises(OperationFailure):
            collection.drop_index("_id_")

    @pytest.mark.parametrize("options", [{"expireAfterSeconds": -1}, {"wildcard": True}])
    def test_unknown_or_wrong_options_are_refused(self, collection: Things, options: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            collection.create_index("a", **options)


class TestExpiry:
    def test_expired_document_is_hidden_then_removed_and_a_younger_one_stays(
        self, collection: Things, is_local: bool
    ) -> None:
        collection.create_index("created_at", expireAfterSeconds=60)
        now = datetime.now(UTC)
        collection.insert_many(
            [
                {"_id": "old", "created_at": now - timedelta(minutes=5)},
                {"_id": "new", "created_at": now},
                {"_id": "never"},
            ]
        )
        deadline = time.monotonic() + (0 if is_local else 120)  # a real server's sweep runs once a minute
        while collection.count_documents({}) == 3 and time.monotonic() < deadline:
            time.sleep(1)
        assert {doc["_id"] for doc in collection.find()} == {"new", "never"}
        assert collection.find_one({"_id": "old"}) is None
        assert collection.estimated_document_count() == 2

    def test_expired_document_does_not_block_its_successor(self, collection: Things, is_local: bool) -> None:
        collection.create_index("until", expireAfterSeconds=0)
        collection.insert_one({"_id": "lease", "until": datetime.now(UTC) - timedelta(seconds=1), "owner": 1})
        if is_local:
            collection.insert_one({"_id": "lease", "until": datetime.now(UTC) + timedelta(hours=1), "owner": 2})
            found = collection.find_one({"_id": "lease"})
            assert found is not None
            assert found["owner"] == 2


class TestPlans:
    """By what was examined, never by time: a read costs the same however many documents there are."""

    def test_reads_examine_as_much_in_a_large_collection_as_in_a_small_one(self, collection: Things) -> None:
        collection.create_index("event_id", unique=True)
        collection.create_index([("entity_id", 1), ("timestamp", -1), ("_id", -1)])
        start = datetime(2026, 1, 1, tzinfo=UTC)
        examined = []
        stored = 0
        for total in (10_000, 200_000):
            while stored < total:
                collection.insert_many(
                    [
                        {
                            "_id": f"{number:08d}",
                            "event_id": f"event-{number}",
                            "entity_id": f"entity-{number % 10}",
                            "timestamp": start + timedelta(seconds=number // 2),
                        }
                        for number in range(stored, stored + 5000)
                    ]
                )
                stored += 5000
            examined.append(_examined(collection, start + timedelta(seconds=2000)))
        assert examined[0] == examined[1]
        assert examined[0]["by unique key"] == 1
        assert examined[0]["page"] <= 52


def _examined(collection: Things, before: datetime) -> dict[str, int]:
    page = {
        "entity_id": "entity-3",
        "$or": [{"timestamp": {"$lt": before}}, {"timestamp": before, "_id": {"$lt": "00004000"}}],
    }
    reads: dict[str, Any] = {
        "by unique key": collection.find({"event_id": "event-777"}),
        "by id": collection.find({"_id": "00000777"}),
        "by ids": collection.find({"_id": {"$in": ["00000001", "00000777", "absent"]}}),
        "page": collection.find(page).sort([("timestamp", -1), ("_id", -1)]).limit(50),
        "newest": collection.find({"entity_id": "entity-3"}).sort("timestamp", 1).limit(5),
        "range": collection.find(
            {"entity_id": "entity-3", "timestamp": {"$gte": before, "$lt": before + timedelta(60)}}
        )
        .sort("timestamp", 1)
        .limit(10),
    }
    return {name: cursor.explain()["executionStats"]["totalDocsExamined"] for name, cursor in reads.items()}
