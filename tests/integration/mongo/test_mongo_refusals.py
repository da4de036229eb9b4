"""What is not known is an error, never ignored."""

from collections.abc import Iterator
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from pymongo import MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, CollectionInvalid, OperationFailure

Things = Collection[dict[str, Any]]

# Refused everywhere.
UNKNOWN_FILTERS: list[dict[str, Any]] = [
    {"a": {"$frob": 1}},
    {"$frob": [1]},
    {"a": {"$in": 1}},
    {"$or": []},
    {"a": {"$gt": 1, "b": 2}},
    {"a": {"$regex": "("}},
]
# A real server knows these; ours says that it does not.
UNSUPPORTED_FILTERS: list[dict[str, Any]] = [{"$where": "1"}, {"$text": {"$search": "x"}}, {"a": {"$mod": [2, 0]}}]
UNKNOWN_STAGES: list[dict[str, Any]] = [
    {"$frob": {}},
    {"$match": {"a": {"$frob": 1}}},
    {"$group": {"n": {"$sum": 1}}},
    {"$group": {"_id": None, "n": {"$frob": 1}}},
    {"$project": {"a": {"$frob": 1}}},
    {"$limit": 0},
    {"$sort": {"a": 2}},
    {"$facet": {"x": [{"$frob": 1}]}},
    {"$unwind": "tags"},
]
UNSUPPORTED_STAGES: list[dict[str, Any]] = [
    {"$lookup": {"from": "b", "localField": "x", "foreignField": "y", "as": "z"}},
    {"$out": "elsewhere"},
    {"$addFields": {"a": 1}},
    {"$setWindowFields": {"output": {}}},
    {"$project": {"a": "$$NOW"}},
]


class TestUnknown:
    @pytest.mark.parametrize("query", UNKNOWN_FILTERS)
    def test_filter(self, collection: Things, query: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            collection.find_one(query)
        collection.insert_one({"_id": 1, "a": 1})
        with pytest.raises(OperationFailure):
            collection.delete_many(query)
        assert collection.count_documents({}) == 1

    @pytest.mark.parametrize("stage", UNKNOWN_STAGES)
    def test_stage(self, collection: Things, stage: dict[str, Any]) -> None:
        collection.insert_one({"_id": 1, "a": 1})
        with pytest.raises(OperationFailure):
            list(collection.aggregate([stage]))

    def test_command(self, database: Database[dict[str, Any]]) -> None:
        with pytest.raises(OperationFailure) as refused:
            database.command("frobnicate", 1)
        assert refused.value.code == 59

    @pytest.mark.parametrize(
        "command",
        [
            {"find": "things", "frob": 1},
            {"insert": "things", "documents": [{"_id": 1}], "frob": 1},
            {"count": "things", "frob": 1},
            {"createIndexes": "things", "indexes": [{"key": {"a": 1}, "name": "a", "frob": 1}]},
            {"find": "things", "filter": 7},
            {"find": ""},
        ],
    )
    def test_option(self, database: Database[dict[str, Any]], command: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            database.command(command)

    def test_one_wrong_statement_of_a_bulk(self, collection: Things) -> None:
        with pytest.raises(BulkWriteError) as refused:
            collection.bulk_write(
                [
                    UpdateOne({"_id": 1}, {"$set": {"a": 1}}, upsert=True),
                    UpdateOne({"_id": 2}, {"$frob": {"a": 1}}, upsert=True),
                    UpdateOne({"_id": 3}, {"$set": {"a": 1}}, upsert=True),
                ],
                ordered=False,
            )
        assert [error["index"] for error in refused.value.details["writeErrors"]] == [1]
        assert refused.value.details["nUpserted"] == 2

    def test_collection_twice(self, database: Database[dict[str, Any]]) -> None:
        database.create_collection("things")
        with pytest.raises(CollectionInvalid):
            database.create_collection("things")


class TestUnsupportedHere:
    """Known to a real server; refused by ours so that no code comes to rely on them."""

    @pytest.fixture
    def collection(self, local_server: Any) -> Iterator[Things]:
        with MongoClient[dict[str, Any]](local_server.url) as client:
            things = client["unsupported"]["things"]
            things.insert_one({"_id": 1, "a": 1, "legs": [{"k": 1}]})
            yield things
            client.drop_database("unsupported")

    @pytest.mark.parametrize("query", UNSUPPORTED_FILTERS)
    def test_filter(self, collection: Things, query: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            collection.find_one(query)

    @pytest.mark.parametrize("stage", UNSUPPORTED_STAGES)
    def test_stage(self, collection: Things, stage: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            list(collection.aggregate([stage]))

    @pytest.mark.parametrize(
        "options",
        [
            {"timeseries": {"timeField": "at"}},
            {"capped": True, "size": 1000},
            {"validator": {"$jsonSchema": {}}},
            {"collation": {"locale": "tr"}},
        ],
    )
    def test_collection_options(self, collection: Things, options: dict[str, Any]) -> None:
        with pytest.raises(OperationFailure):
            collection.database.create_collection("special", **options)
        assert "special" not in collection.database.list_collection_names()

    def test_update_by_pipeline_or_array_filter(self, collection: Things) -> None:
        with pytest.raises(OperationFailure):
            collection.update_one({"_id": 1}, [{"$set": {"a": 2}}])
        with pytest.raises(OperationFailure):
            collection.update_one({"_id": 1}, {"$set": {"legs.$[l].k": 2}}, array_filters=[{"l.k": 1}])
        with pytest.raises(OperationFailure):
            collection.update_one({"legs.k": 1}, {"$set": {"legs.$.k": 2}})

    def test_hint_and_collation(self, collection: Things) -> None:
        with pytest.raises(OperationFailure):
            list(collection.find().hint("_id_"))
        with pytest.raises(OperationFailure):
            list(collection.find(collation={"locale": "tr"}))

    def test_decimal128_in_queries(self, collection: Things) -> None:
        collection.insert_one({"_id": 2, "price": Decimal128("1")})
        for query in ({"price": Decimal128("1")}, {"price": {"$gt": Decimal128("0")}}):
            with pytest.raises(OperationFailure):
                list(collection.find(query))
        with pytest.raises(OperationFailure):
            list(collection.find().sort("price", 1))
        with pytest.raises(OperationFailure):
            collection.update_one({"_id": 2}, {"$inc": {"price": 1}})

    def test_change_streams(self, collection: Things) -> None:
        with pytest.raises(OperationFailure):
            collection.watch()

    def test_transactions(self, collection: Things) -> None:
        client = collection.database.client
        with (
            pytest.raises(OperationFailure) as refused,
            client.start_session() as session,
            session.start_transaction(),
        ):
            collection.insert_one({"_id": 2}, session=session)
        assert refused.value.code == 20
        assert collection.count_documents({}) == 1

    def test_causally_consistent_session_is_accepted(self, collection: Things) -> None:
        with collection.database.client.start_session() as session:
            collection.insert_one({"_id": 2}, session=session)
            assert collection.count_documents({}, session=session) == 2
