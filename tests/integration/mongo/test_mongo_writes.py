"""insert, update, delete and findAndModify, alone and in bulk."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from pymongo import DeleteOne, InsertOne, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge, DuplicateKeyError, OperationFailure, WriteError

Things = Collection[dict[str, Any]]


class TestInsert:
    def test_values_come_back_as_they_went_in(self, collection: Things) -> None:
        document = {
            "_id": "x",
            "text": "Grüße\x00!",
            "number": 2**60,
            "small": 7,
            "price": Decimal128("10.50"),
            "at": datetime(2026, 11, 21, 12, 30, 1, 123000, tzinfo=UTC),
            "raw": b"\x00\xff",
            "ref": ObjectId(),
            "nested": {"list": [1, {"deep": None}], "empty": {}},
        }
        collection.insert_one(document)
        assert collection.find_one() == document

    def test_ordered_stops_at_the_first_duplicate(self, collection: Things) -> None:
        with pytest.raises(BulkWriteError) as refused:
            collection.insert_many([{"_id": "a"}, {"_id": "b"}, {"_id": "a"}, {"_id": "c"}])
        assert refused.value.details["nInserted"] == 2
        assert [error["index"] for error in refused.value.details["writeErrors"]] == [2]
        assert {doc["_id"] for doc in collection.find()} == {"a", "b"}

    def test_unordered_stores_all_but_the_duplicates(self, collection: Things) -> None:
        collection.create_index("n", unique=True)
        collection.insert_one({"_id": "first", "n": 3})
        with pytest.raises(BulkWriteError) as refused:
            collection.insert_many(
                [{"_id": str(number), "n": number} for number in range(6)] + [{"n": 5}], ordered=False
            )
        errors = refused.value.details["writeErrors"]
        assert refused.value.details["nInserted"] == 5
        assert [(error["index"], error["code"], error["keyValue"]) for error in errors] == [
            (3, 11000, {"n": 3}),
            (6, 11000, {"n": 5}),
        ]

    def test_majority_and_journal_are_accepted(self, collection: Things) -> None:
        sure = collection.with_options(write_concern=WriteConcern(w="majority", j=True))
        assert sure.insert_one({"_id": "a"}).acknowledged

    def test_collection_name_with_a_dot(self, collection: Things) -> None:
        collection.database["audit.events"].insert_one({"_id": "a"})
        assert "audit.events" in collection.database.list_collection_names()

    def test_document_above_16_mib_is_refused_and_one_below_is_not(self, collection: Things) -> None:
        collection.insert_one({"_id": "big", "text": "x" * (16 * 1024 * 1024 - 100)})
        with pytest.raises((DocumentTooLarge, OperationFailure)):
            collection.insert_one({"_id": "bigger", "text": "x" * (16 * 1024 * 1024)})
        found = collection.find_one({"_id": "big"})
        assert found is not None
        assert len(found["text"]) == 16 * 1024 * 1024 - 100


class TestUpdate:
    def test_upsert_with_set_on_insert_twice_inserts_once(self, collection: Things) -> None:
        collection.create_index("event_id", unique=True)
        operations = [
            UpdateOne({"event_id": f"e{number}"}, {"$setOnInsert": {"_id": f"id{number}", "n": number}}, upsert=True)
            for number in range(5)
        ]
        first = collection.bulk_write(operations, ordered=False)
        assert (first.upserted_count, first.matched_count, first.modified_count) == (5, 0, 0)
        assert first.upserted_ids == {number: f"id{number}" for number in range(5)}
        second = collection.bulk_write(operations, ordered=False)
        assert (second.upserted_count, second.matched_count, second.modified_count) == (0, 5, 0)
        assert collection.find_one({"event_id": "e3"}) == {"_id": "id3", "event_id": "e3", "n": 3}

    def test_matched_and_modified_are_told_apart(self, collection: Things) -> None:
        collection.insert_many([{"_id": 1, "s": "a"}, {"_id": 2, "s": "b"}, {"_id": 3, "s": "b"}])
        result = collection.update_many({}, {"$set": {"s": "b"}})
        assert (result.matched_count, result.modified_count) == (3, 1)

    @pytest.mark.parametrize(
        ("before", "update", "after"),
        [
            ({"n": 1}, {"$inc": {"n": 2, "m": 5}}, {"n": 3, "m": 5}),
            ({"n": 3}, {"$mul": {"n": 4}}, {"n": 12}),
            ({"a": {"b": 1, "c": 2}}, {"$unset": {"a.b": ""}, "$set": {"a.d.e": 3}}, {"a": {"c": 2, "d": {"e": 3}}}),
            ({"l": [1]}, {"$push": {"l": 2}}, {"l": [1, 2]}),
            ({"l": [1, 2]}, {"$push": {"l": {"$each": [3, 4], "$slice": -3}}}, {"l": [2, 3, 4]}),
            ({"l": [1]}, {"$addToSet": {"l": {"$each": [1, 2, 2]}}}, {"l": [1, 2]}),
            ({"l": [1, 2, 3, 2]}, {"$pull": {"l": 2}}, {"l": [1, 3]}),
            ({"l": [{"k": 1}, {"k": 5}]}, {"$pull": {"l": {"k": {"$gt": 3}}}}, {"l": [{"k": 1}]}),
            ({"l": [1, 2, 3]}, {"$pop": {"l": -1}}, {"l": [2, 3]}),
            ({"n": 5}, {"$min": {"n": 3}, "$max": {"m": 9}}, {"n": 3, "m": 9}),
            ({"l": [{"k": 1}]}, {"$set": {"l.0.k": 2}}, {"l": [{"k": 2}]}),
        ],
    )
    def test_operators(
        self, collection: Things, before: dict[str, Any], update: dict[str, Any], after: dict[str, Any]
    ) -> None:
        collection.insert_one({"_id": 1, **before})
        collection.update_one({"_id": 1}, update)
        assert collection.find_one() == {"_id": 1, **after}

    def test_current_date_is_a_date(self, collection: Things) -> None:
        collection.update_one({"_id": 1}, {"$currentDate": {"at": True}}, upsert=True)
        found = collection.find_one()
        assert found is not None
        assert abs((found["at"] - datetime.now(UTC)).total_seconds()) < 60

    def test_replace_keeps_the_id_and_an_upserted_replacement_takes_that_of_the_filter(
        self, collection: Things
    ) -> None:
        collection.insert_one({"_id": "a", "old": 1})
        collection.replace_one({"_id": "a"}, {"new": 2})
        assert collection.find_one() == {"_id": "a", "new": 2}
        assert collection.replace_one({"_id": "b"}, {"new": 3}, upsert=True).upserted_id == "b"
        assert collection.find_one({"_id": "b"}) == {"_id": "b", "new": 3}

    def test_id_cannot_be_changed(self, collection: Things) -> None:
        collection.insert_one({"_id": "a"})
        for update in ({"$set": {"_id": "b"}}, {"$unset": {"_id": ""}}):
            with pytest.raises(WriteError):
                collection.update_one({"_id": "a"}, update)
        with pytest.raises(WriteError):
            collection.replace_one({"_id": "a"}, {"_id": "b"})

    @pytest.mark.parametrize(
        "update",
        [
            {"$inc": {"text": 1}},
            {"$inc": {"n": "1"}},
            {"$push": {"n": 1}},
            {"$set": {"n.x": 1}},
            {"$set": {"n": 1}, "$inc": {"n": 1}},
            {"$frobnicate": {"n": 1}},
            {"$set": {"l.$.k": 1}},
        ],
    )
    def test_update_that_cannot_be_is_refused(self, collection: Things, update: dict[str, Any]) -> None:
        before = {"_id": 1, "n": 1, "text": "t", "l": [{"k": 0}]}
        collection.insert_one(before)
        with pytest.raises(WriteError):
            collection.update_one({"_id": 1}, update)
        assert collection.find_one() == before

    def test_indexed_field_is_found_under_its_new_value_only(self, collection: Things) -> None:
        collection.create_index("state")
        collection.insert_many([{"_id": number, "state": "NEW"} for number in range(20)])
        collection.update_many({"state": "NEW", "_id": {"$lt": 10}}, {"$set": {"state": "SENT"}})
        assert collection.count_documents({"state": "SENT"}) == 10
        assert collection.count_documents({"state": "NEW"}) == 10

    def test_mixed_bulk_counts(self, collection: Things) -> None:
        result = collection.bulk_write(
            [
                InsertOne({"_id": 1, "n": 1}),
                InsertOne({"_id": 2, "n": 1}),
                UpdateMany({"n": 1}, {"$inc": {"n": 1}}),
                ReplaceOne({"_id": 3}, {"n": 9}, upsert=True),
                DeleteOne({"n": 2}),
            ]
        )
        counts = (result.inserted_count, result.modified_count, result.upserted_count, result.deleted_count)
        assert counts == (2, 2, 1, 1)


class TestDelete:
    def test_one_and_many(self, collection: Things) -> None:
        collection.create_index("k")
        collection.insert_many([{"_id": number, "k": number % 2} for number in range(10)])
        assert collection.delete_one({"k": 1}).deleted_count == 1
        assert collection.delete_many({"k": 1}).deleted_count == 4
        assert collection.delete_many({"k": 1}).deleted_count == 0
        assert collection.count_documents({}) == 5


class TestFindAndModify:
    def test_counter_by_upsert(self, collection: Things) -> None:
        values = []
        for _ in range(3):
            counter = collection.find_one_and_update(
                {"_id": "seq"}, {"$inc": {"n": 1}}, upsert=True, return_document=ReturnDocument.AFTER
            )
            assert counter is not None
            values.append(counter["n"])
        assert values == [1, 2, 3]

    def test_claims_in_order_of_the_sort(self, collection: Things) -> None:
        collection.insert_many([{"_id": number, "due": 10 - number, "state": "NEW"} for number in range(3)])
        claimed = []
        while (
            job := collection.find_one_and_update({"state": "NEW"}, {"$set": {"state": "TAKEN"}}, sort=[("due", 1)])
        ) is not None:
            assert job["state"] == "NEW"
            claimed.append(job["_id"])
        assert claimed == [2, 1, 0]

    def test_delete_and_replace_return_the_old_document(self, collection: Things) -> None:
        collection.insert_one({"_id": 1, "a": 1, "b": 2})
        assert collection.find_one_and_replace({"_id": 1}, {"a": 5}, projection={"b": 1}) == {"_id": 1, "b": 2}
        assert collection.find_one_and_delete({"_id": 1}) == {"_id": 1, "a": 5}
        assert collection.find_one_and_delete({"_id": 1}) is None

    def test_duplicate_key_is_an_error_of_the_command(self, collection: Things) -> None:
        collection.create_index("n", unique=True)
        collection.insert_many([{"_id": 1, "n": 1}, {"_id": 2, "n": 2}])
        with pytest.raises(DuplicateKeyError):
            collection.find_one_and_update({"_id": 2}, {"$set": {"n": 1}})
