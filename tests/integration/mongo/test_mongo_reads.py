"""find, paging, cursors, count, distinct and aggregation."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.timestamp import Timestamp
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import CursorNotFound, OperationFailure

Things = Collection[dict[str, Any]]
START = datetime(2026, 3, 1, tzinfo=UTC)


def ids(cursor: Any) -> list[Any]:
    return [doc["_id"] for doc in cursor]


class TestFind:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"n": 2}, [2]),
            ({"n": {"$gt": 1, "$lte": 3}}, [2, 3]),
            ({"n": {"$in": [1, 4, 9]}}, [1, 4]),
            ({"n": {"$nin": [1, 2, 3]}}, [4, 5]),
            ({"n": {"$ne": 2}}, [1, 3, 4, 5]),
            ({"absent": None}, [1, 2, 3, 4, 5]),
            ({"text": {"$exists": True}}, [1, 2]),
            ({"text": {"$regex": "^AL", "$options": "i"}}, [1]),
            ({"text": {"$not": {"$regex": "^al"}}}, [2, 3, 4, 5]),
            ({"sub.k": "x"}, [3]),
            ({"sub": {"k": "x"}}, [3]),
            ({"tags": "red"}, [4, 5]),
            ({"tags": {"$all": ["red", "blue"]}}, [4]),
            ({"tags": {"$size": 1}}, [5]),
            ({"legs": {"$elemMatch": {"side": "B", "size": {"$gt": 5}}}}, [5]),
            ({"legs.side": "A"}, [4, 5]),
            ({"legs.0.size": 9}, [4]),
            ({"$and": [{"n": {"$gt": 1}}, {"n": {"$lt": 3}}]}, [2]),
            ({"$or": [{"n": 1}, {"tags": "blue"}]}, [1, 4]),
            ({"$nor": [{"n": 1}, {"tags": "red"}]}, [2, 3]),
            ({"n": {"$type": "number"}}, [1, 2, 3, 4, 5]),
            ({"n": "2"}, []),
            ({"n": {"$gt": "1"}}, []),
            ({"n": True}, []),
            ({"$expr": {"$eq": ["$n", "$_id"]}}, [1, 2, 3, 4, 5]),
        ],
    )
    @pytest.mark.parametrize("indexed", [False, True])
    def test_filters(self, collection: Things, query: dict[str, Any], found: list[int], indexed: bool) -> None:
        if indexed:
            for field in ("n", "text", "sub.k", "tags", "legs.side"):
                collection.create_index(field)
        collection.insert_many(
            [
                {"_id": 1, "n": 1, "text": "alpha"},
                {"_id": 2, "n": 2.0, "text": "beta"},
                {"_id": 3, "n": 3, "sub": {"k": "x"}},
                {
                    "_id": 4,
                    "n": 4,
                    "tags": ["red", "blue"],
                    "legs": [{"side": "A", "size": 9}, {"side": "B", "size": 1}],
                },
                {"_id": 5, "n": 5, "tags": ["red"], "legs": [{"side": "A", "size": 1}, {"side": "B", "size": 9}]},
            ]
        )
        assert ids(collection.find(query).sort("_id", 1)) == found

    def test_order_of_types_and_numbers(self, collection: Things) -> None:
        values = [None, -5, 0.5, 3, 2**53 + 1, "10", "5", {"a": 1}, b"x", True, START]
        collection.insert_many([{"_id": position, "v": value} for position, value in enumerate(values)])
        assert ids(collection.find().sort("v", 1)) == list(range(len(values)))
        collection.create_index("v")
        assert ids(collection.find().sort("v", -1)) == list(reversed(range(len(values))))

    def test_integer_ids_sort_as_numbers(self, collection: Things) -> None:
        collection.insert_many([{"_id": number} for number in (10, 5, 100, 7)])
        assert ids(collection.find({"_id": {"$gt": 5}}).sort("_id", 1)) == [7, 10, 100]

    def test_projection(self, collection: Things) -> None:
        collection.insert_one({"_id": 1, "a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}], "z": 3})
        assert collection.find_one({}, {"a.b": 1, "l.x": 1}) == {"_id": 1, "a": {"b": 1}, "l": [{"x": 1}]}
        assert collection.find_one({}, {"a": 0, "l": 0, "_id": 0}) == {"z": 3}
        assert collection.find_one({}, {"_id": 1}) == {"_id": 1}
        with pytest.raises(OperationFailure):
            collection.find_one({}, {"a": 1, "z": 0})

    def test_keyset_paging_reads_everything_once_in_order(self, collection: Things) -> None:
        collection.create_index([("customer_id", 1), ("created_at", -1), ("_id", -1)])
        collection.insert_many(
            [
                {
                    "_id": f"{number:04d}",
                    "customer_id": number % 2,
                    "created_at": START + timedelta(seconds=number // 7),
                }
                for number in range(300)
            ]
        )
        wanted = sorted((f"{number:04d}" for number in range(1, 300, 2)), reverse=True)
        seen: list[str] = []
        query: dict[str, Any] = {"customer_id": 1}
        while page := list(collection.find(query).sort([("created_at", -1), ("_id", -1)]).limit(7)):
            seen += ids(page)
            last = page[-1]
            query["$or"] = [
                {"created_at": {"$lt": last["created_at"]}},
                {"created_at": last["created_at"], "_id": {"$lt": last["_id"]}},
            ]
        assert seen == wanted

    def test_skip_and_limit(self, collection: Things) -> None:
        collection.insert_many([{"_id": number, "v": -number} for number in range(10)])
        assert ids(collection.find().sort("_id", 1).skip(3).limit(2)) == [3, 4]
        assert ids(collection.find().sort("v", 1).skip(8).limit(5)) == [1, 0]
        assert collection.count_documents({"_id": {"$gte": 2}}, skip=1, limit=3) == 3

    def test_distinct(self, collection: Things) -> None:
        collection.insert_many([{"k": "b"}, {"k": "a"}, {"k": ["a", "c"]}, {}])
        assert sorted(collection.distinct("k")) == ["a", "b", "c"]

    def test_decimal128_is_stored(self, collection: Things) -> None:
        collection.insert_one({"_id": 1, "price": Decimal128("1.10")})
        assert collection.find_one({"_id": 1}) == {"_id": 1, "price": Decimal128("1.10")}


class TestCursors:
    def test_batches_bring_everything_in_order(self, collection: Things) -> None:
        collection.insert_many([{"_id": number, "text": "x" * 1000} for number in range(1000)])
        assert ids(collection.find().sort("_id", -1).batch_size(70)) == list(reversed(range(1000)))
        assert len(list(collection.aggregate([{"$match": {}}], batchSize=33))) == 1000

    def test_large_documents_are_split_over_batches(self, collection: Things) -> None:
        collection.insert_many([{"_id": number, "text": "x" * 3_000_000} for number in range(12)])
        assert ids(collection.find().sort("_id", 1)) == list(range(12))

    def test_cursor_does_not_see_later_writes_twice_or_half(self, collection: Things) -> None:
        collection.insert_many([{"_id": number, "n": 0} for number in range(500)])
        cursor = collection.find().sort("_id", 1).batch_size(10)
        first = next(cursor)["_id"]
        collection.update_many({}, {"$inc": {"n": 1}})
        assert [first, *ids(cursor)] == list(range(500))

    def test_killed_cursor_is_gone(self, collection: Things) -> None:
        collection.insert_many([{"_id": number} for number in range(300)])
        cursor = collection.find().batch_size(5)
        next(cursor)
        answer = collection.database.command("killCursors", collection.name, cursors=[cursor.cursor_id])
        assert answer["cursorsKilled"] == [cursor.cursor_id]
        with pytest.raises(CursorNotFound):
            list(cursor)

    def test_readers_and_a_writer_at_once(self, collection: Things) -> None:
        """A bulk insert is seen whole or not at all."""
        stop = threading.Event()
        odd: list[int] = []

        def read() -> None:
            while not stop.is_set():
                total = len(list(collection.find({}, {"_id": 1})))
                if total % 50:
                    odd.append(total)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for batch in range(20):
            collection.insert_many([{"_id": batch * 50 + number} for number in range(50)])
        stop.set()
        for reader in readers:
            reader.join()
        assert collection.count_documents({}) == 1000
        if "local" in collection.database.client.server_info()["gitVersion"]:
            assert odd == []


class TestSnapshots:
    def test_several_collections_are_read_as_they_were_at_one_moment(self, database: Database[Any]) -> None:
        first, second = database["first"], database["second"]
        first.insert_many([{"_id": number} for number in range(300)])
        second.insert_one({"_id": 0})
        with database.client.start_session(snapshot=True) as session:
            assert first.count_documents({}) == 300
            reading = first.find({}, session=session, batch_size=10)
            next(reading)
            first.delete_many({})
            second.insert_one({"_id": 1})
            database["third"].insert_one({"_id": 0})
            assert len(list(reading)) == 299
            assert list(second.find({}, session=session)) == [{"_id": 0}]
            assert list(first.find({"_id": 7}, session=session)) == [{"_id": 7}]
            assert list(database["third"].find({}, session=session)) == []
        assert second.count_documents({}) == 2

    def test_one_that_is_no_longer_kept_is_refused(self, database: Database[Any]) -> None:
        concern = {"level": "snapshot", "atClusterTime": Timestamp(1, 1)}
        with pytest.raises(OperationFailure) as refused:
            database.command("find", "first", readConcern=concern)
        assert refused.value.code == 239

    def test_only_find_reads_one_here(self, database: Database[Any], is_local: bool) -> None:
        if not is_local:
            return
        with pytest.raises(OperationFailure, match="readConcern"):
            database.command("count", "first", readConcern={"level": "snapshot"})


class TestAggregate:
    @pytest.fixture(autouse=True)
    def _fills(self, collection: Things) -> None:
        collection.insert_many(
            [
                {
                    "_id": number,
                    "asset": "AAPL" if number % 3 else "GOOGL",
                    "side": "BUY" if number % 2 else "SELL",
                    "size": number,
                    "at": START + timedelta(hours=number),
                    "tags": ["t", f"t{number % 2}"],
                }
                for number in range(1, 13)
            ]
        )

    def test_group_by_field_and_by_document(self, collection: Things) -> None:
        found = collection.aggregate(
            [
                {"$match": {"size": {"$gt": 2}}},
                {
                    "$group": {
                        "_id": {"a": "$asset", "s": "$side"},
                        "n": {"$sum": 1},
                        "total": {"$sum": "$size"},
                        "mean": {"$avg": "$size"},
                        "first": {"$min": "$at"},
                        "last": {"$max": "$at"},
                    }
                },
                {"$sort": {"_id.a": 1, "_id.s": 1}},
                {"$limit": 1},
            ]
        )
        assert list(found) == [
            {
                "_id": {"a": "AAPL", "s": "BUY"},
                "n": 3,
                "total": 23,
                "mean": 23 / 3,
                "first": START + timedelta(hours=5),
                "last": START + timedelta(hours=11),
            }
        ]
        by_asset = collection.aggregate([{"$group": {"_id": "$asset", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}])
        assert list(by_asset) == [{"_id": "AAPL", "n": 8}, {"_id": "GOOGL", "n": 4}]

    def test_push_first_last_and_set(self, collection: Things) -> None:
        (found,) = collection.aggregate(
            [
                {"$sort": {"_id": -1}},
                {"$limit": 3},
                {
                    "$group": {
                        "_id": None,
                        "ids": {"$push": "$_id"},
                        "sides": {"$addToSet": "$side"},
                        "first": {"$first": "$_id"},
                        "last": {"$last": "$_id"},
                    }
                },
            ]
        )
        assert sorted(found.pop("sides")) == ["BUY", "SELL"]
        assert found == {"_id": None, "ids": [12, 11, 10], "first": 12, "last": 10}

    @pytest.mark.parametrize(
        ("options", "start"),
        [
            ({"unit": "hour"}, datetime(2026, 3, 1, 11, tzinfo=UTC)),
            ({"unit": "hour", "binSize": 4}, datetime(2026, 3, 1, 8, tzinfo=UTC)),
            ({"unit": "day"}, datetime(2026, 3, 1, tzinfo=UTC)),
            ({"unit": "day", "timezone": "Europe/Istanbul"}, datetime(2026, 2, 28, 21, tzinfo=UTC)),
            ({"unit": "week"}, datetime(2026, 3, 1, tzinfo=UTC)),
            ({"unit": "week", "startOfWeek": "monday"}, datetime(2026, 2, 23, tzinfo=UTC)),
            ({"unit": "month"}, datetime(2026, 3, 1, tzinfo=UTC)),
            ({"unit": "quarter"}, datetime(2026, 1, 1, tzinfo=UTC)),
            ({"unit": "year"}, datetime(2026, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_date_trunc(self, collection: Things, options: dict[str, Any], start: datetime) -> None:
        (found,) = collection.aggregate(
            [{"$match": {"_id": 11}}, {"$project": {"_id": 0, "bin": {"$dateTrunc": {"date": "$at", **options}}}}]
        )
        assert found == {"bin": start}

    def test_date_to_string(self, collection: Things) -> None:
        text = {"$dateToString": {"date": "$at", "format": "%Y-%m-%d %H:%M:%S.%L", "timezone": "+03:00"}}
        (found,) = collection.aggregate([{"$match": {"_id": 11}}, {"$project": {"text": text}}])
        assert found["text"] == "2026-03-01 14:00:00.000"

    def test_unwind_and_count(self, collection: Things) -> None:
        found = collection.aggregate([{"$unwind": "$tags"}, {"$match": {"tags": "t1"}}, {"$count": "n"}])
        assert list(found) == [{"n": 6}]
        assert list(collection.aggregate([{"$match": {"_id": 99}}, {"$count": "n"}])) == []

    def test_facet(self, collection: Things) -> None:
        (found,) = collection.aggregate(
            [
                {"$match": {"asset": "GOOGL"}},
                {
                    "$facet": {
                        "total": [{"$count": "n"}],
                        "page": [{"$sort": {"_id": -1}}, {"$skip": 1}, {"$limit": 2}, {"$project": {"_id": 1}}],
                    }
                },
            ]
        )
        assert found == {"total": [{"n": 4}], "page": [{"_id": 9}, {"_id": 6}]}

    def test_project_computes(self, collection: Things) -> None:
        big = {"$cond": [{"$gte": ["$size", 6]}, "big", "small"]}
        spec = {"_id": 0, "twice": {"$multiply": ["$size", 2]}, "kind": big, "none": {"$ifNull": ["$absent", "-"]}}
        (found,) = collection.aggregate([{"$match": {"_id": 6}}, {"$project": spec}])
        assert found == {"twice": 12, "kind": "big", "none": "-"}

    def test_merge_writes_into_a_collection_and_repeats_safely(self, collection: Things) -> None:
        pipeline: list[dict[str, Any]] = [
            {"$group": {"_id": "$asset", "total": {"$sum": "$size"}}},
            {"$merge": {"into": "totals", "whenMatched": "replace"}},
        ]
        for _ in range(2):
            assert list(collection.aggregate(pipeline)) == []
        totals = collection.database["totals"]
        assert list(totals.find().sort("_id", 1)) == [{"_id": "AAPL", "total": 48}, {"_id": "GOOGL", "total": 30}]

    def test_count_of_nothing_and_of_an_absent_collection(self, collection: Things) -> None:
        assert collection.database["absent"].count_documents({}) == 0
        assert list(collection.database["absent"].find()) == []
        assert list(collection.database["absent"].aggregate([{"$match": {}}])) == []
