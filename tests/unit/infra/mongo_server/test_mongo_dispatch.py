"""Whatever a client sends is answered: with a result or with a refusal that names a reason, never with a bug."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.regex import Regex

from infra.mongo_server.cursors import Cursors
from infra.mongo_server.dispatch import Dispatcher
from infra.mongo_server.moments import Moments
from infra.mongo_server.protocol import Request
from infra.mongo_server.storage import Storage

COMMANDS: list[dict[str, Any]] = [
    {
        "find": "t",
        "filter": {"a": {"$gt": 1, "$in": [1]}, "$or": [{"b": 1}]},
        "sort": {"a": 1},
        "projection": {"a": 1},
        "skip": 1,
        "limit": 1,
        "batchSize": 1,
        "singleBatch": True,
    },
    {"getMore": Int64(5), "collection": "t", "batchSize": 1},
    {"killCursors": "t", "cursors": [Int64(5)]},
    {"count": "t", "query": {"a": 1}, "skip": 0, "limit": 0},
    {"distinct": "t", "key": "a", "query": {}},
    {"aggregate": "t", "pipeline": [{"$match": {"a": 1}}], "cursor": {"batchSize": 1}},
    {"aggregate": "t", "pipeline": [{"$group": {"_id": "$a", "n": {"$sum": "$b"}}}], "cursor": {}},
    {"aggregate": "t", "pipeline": [{"$project": {"d": {"$dateTrunc": {"date": "$a", "unit": "day"}}}}], "cursor": {}},
    {"aggregate": "t", "pipeline": [{"$unwind": {"path": "$a", "includeArrayIndex": "i"}}], "cursor": {}},
    {
        "aggregate": "t",
        "pipeline": [{"$facet": {"x": [{"$sort": {"a": 1}}, {"$skip": 1}, {"$limit": 1}]}}],
        "cursor": {},
    },
    {"aggregate": "t", "pipeline": [{"$project": {"d": {"$dateToString": {"date": "$at"}}}}], "cursor": {}},
    {"aggregate": "t", "pipeline": [{"$project": {"d": {"$cond": [{"$gt": ["$a", 1]}, 1, 2]}}}], "cursor": {}},
    {"aggregate": "t", "pipeline": [{"$merge": {"into": "u", "on": "_id", "whenMatched": "merge"}}], "cursor": {}},
    {"explain": {"find": "t", "filter": {"a": 1}, "sort": {"a": 1}}},
    {"insert": "t", "documents": [{"_id": 7, "a": 1}], "ordered": True, "writeConcern": {"w": 1}},
    {
        "update": "t",
        "updates": [{"q": {"a": 1}, "u": {"$set": {"a": 2}, "$inc": {"b": 1}}, "upsert": True, "multi": True}],
    },
    {"update": "t", "updates": [{"q": {"a": 9}, "u": {"$push": {"l": {"$each": [1], "$slice": 1, "$position": 0}}}}]},
    {"update": "t", "updates": [{"q": {}, "u": {"$pull": {"l": {"$gt": 1}}, "$addToSet": {"m": {"$each": [1]}}}}]},
    {"update": "t", "updates": [{"q": {"z": 1}, "u": {"$currentDate": {"at": True}}, "upsert": True}]},
    {"delete": "t", "deletes": [{"q": {"a": 77}, "limit": 1}]},
    {
        "findAndModify": "t",
        "query": {"a": 1},
        "sort": {"a": 1},
        "update": {"$set": {"a": 1}},
        "new": True,
        "fields": {"a": 1},
    },
    {"createIndexes": "t", "indexes": [{"key": {"a": 1}, "name": "a_1", "unique": True, "expireAfterSeconds": 5}]},
    {"createIndexes": "t", "indexes": [{"key": {"k": 1}, "name": "k_1", "partialFilterExpression": {"k": {"$gt": 1}}}]},
    {"dropIndexes": "t", "index": "x_1"},
    {"listIndexes": "t", "cursor": {}},
    {"listCollections": 1, "filter": {"name": "t"}, "nameOnly": True, "cursor": {}},
    {"listDatabases": 1, "filter": {"name": "t"}, "nameOnly": True},
    {"create": "u"},
    {"drop": "u"},
    {"getParameter": 1, "featureCompatibilityVersion": 1},
    {"ping": 1, "readConcern": {"level": "local"}, "lsid": {"id": 1}, "comment": 1, "maxTimeMS": 1},
]
ODD: list[Any] = [
    None, True, -1, 0, 1.5, float("nan"), 2**62, "", "$", "a..b", "x\0y", "$$ROOT", [], [[]], [None], {}, {"": 1},
    {"$": 1}, {"$frob": 1}, {"a.$": 1}, b"x", Regex("("), MaxKey(), {"a": {"$gt": [1]}}, {"_id": [1]}, {"$each": 1},
    [{"$match": 1}],
]  # fmt: skip


def variations(value: Any) -> Iterator[Any]:
    """The value with each part of it, at any depth, in turn replaced, left out or moved under an odd name."""
    yield from ODD
    if isinstance(value, dict):
        for name in value:
            for other in variations(value[name]):
                yield {key: other if key == name else item for key, item in value.items()}
            yield {key: item for key, item in value.items() if key != name}
            yield {("$odd" if key == name else key): item for key, item in value.items()}
    elif isinstance(value, list):
        for position, item in enumerate(value):
            for other in variations(item):
                yield [*value[:position], other, *value[position + 1 :]]


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    storage = Storage(Path(tmp_path_factory.mktemp("dispatch")) / "data.sqlite")
    # Durability is another test's matter; thousands of commands here need not wait for the disk.
    storage._writer.execute("PRAGMA synchronous = OFF")
    cursors = Cursors()
    yield Dispatcher(storage, cursors, Moments(storage))
    cursors.close_idle(0.0)
    storage.close()


def send(dispatcher: Dispatcher, body: dict[str, Any]) -> dict[str, Any]:
    decoded = bson.decode(bson.encode({**body, "$db": "app"}))
    return bson.decode(dispatcher.answer(Request(1, decoded, {}, legacy=False, wants_reply=True))[21:])


class TestDispatcher:
    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: next(iter(command)))
    def test_odd_values_anywhere_are_no_internal_error(self, dispatcher: Dispatcher, command: dict[str, Any]) -> None:
        dates = [
            {"_id": number, "a": value, "b": "x"} for number, value in enumerate([1, "t", [1, [2]], None, {"k": 1}])
        ]
        send(dispatcher, {"insert": "t", "documents": dates})
        assert send(dispatcher, command).get("codeName") != "InternalError"
        tried = 0
        for body in variations(command):
            if not isinstance(body, dict) or next(iter(body), None) not in command or "\0" in str(body.keys()):
                continue
            tried += 1
            answer = send(dispatcher, body)
            codes = [answer.get("code"), *[error["code"] for error in answer.get("writeErrors", [])]]
            assert 1 not in codes, (body, answer)
            if answer.get("cursor", {}).get("id"):
                send(dispatcher, {"killCursors": "t", "cursors": [answer["cursor"]["id"]]})
        assert tried
