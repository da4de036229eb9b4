"""Six kinds of tampering, a hundred generated cases each, by somebody who may do anything to the store: all are found, and
named where they begin. The signed checkpoints are all he cannot reach."""

import random
import secrets
import string
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from own_trail import Trail

from auditor import documents
from auditor.chain import GENESIS, Head, Tampering, content_of, digest
from auditor.checkpoints import open_place
from auditor.documents import HEAD, LOGS
from auditor.keeping import Keeping
from auditor.service import Auditor
from auditor.settings import Settings
from auditor.writer import ChainWriter
from shared.auth import keys
from shared.testing.servers import LocalMongo

Record = dict[str, Any]
RECORDS = 24
CHECKPOINTS = (1, 7, 15, RECORDS)
CASES = 100


@dataclass
class Case:
    """What the store holds afterwards, and which record is the first that is not as it was written."""

    records: list[Record]
    first_bad: int


@pytest.fixture(scope="module")
def kept(mongo: LocalMongo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Keeping, list[Record]]]:
    """A trail with checkpoints, and its records as they are."""
    directory: Path = tmp_path_factory.mktemp("kept")
    keys.ensure(directory / "audit")
    url = (directory / "outside.ndjson").as_uri()
    settings = Settings(mongo_url=mongo.url, key_dir=str(directory), audit_checkpoint_url=url, audit_key_dir=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "NAME", f"auditor_{secrets.token_hex(6)}")
        database = documents.open_database(settings, pool_size=4)
    trail = Trail(database, Auditor(database, ChainWriter(database)))
    keeping = Keeping(database, settings, open_place(url, timeout_seconds=5), None)
    for number in range(1, RECORDS + 1):
        trail.record(1)
        if number in CHECKPOINTS:
            assert keeping.take_checkpoint() is not None
    records = trail.records()
    found = keeping.verify()
    assert (found.valid, found.records, found.checkpoints) == (True, RECORDS, len(CHECKPOINTS))
    yield keeping, records
    database.close()


def replace(keeping: Keeping, records: list[Record]) -> None:
    """The store as the operator leaves it, its own note of the head included."""
    logs = keeping.database[LOGS]
    logs.delete_many({})
    logs.insert_many(records)
    last = max(records, key=lambda record: record["seq"])
    keeping.database[HEAD].update_one({"_id": "chain"}, {"$set": {"seq": last["seq"], "hash": last["hash"]}})


def rehash(records: list[Record], start: int = 0) -> None:
    """Anew from index `start` on, as who knows the formula can."""
    for index in range(start, len(records)):
        records[index]["prev_hash"] = records[index - 1]["hash"] if index else GENESIS
        records[index]["hash"] = digest(records[index]["prev_hash"], content_of(records[index]))


def changed(record: Record, dice: random.Random) -> None:
    """One value of it, somewhere."""
    name = dice.choice(
        ["action", "role", "entity_id", "correlation_id", "user_id", "timestamp", "new_value", "metadata"]
    )
    value = record[name]
    match value:
        case str():
            place = dice.randrange(len(value))
            record[name] = value[:place] + other(value[place], dice) + value[place + 1 :]
        case dict():
            record[name] = {**value, dice.choice([*value, "more"]): dice.randrange(10**6)}
        case int() | None:
            record[name] = (value or 0) + dice.randrange(1, 100)
        case _:
            record[name] = value + timedelta(milliseconds=dice.choice([-1, 1]) * dice.randrange(1, 10**6))


def other(character: str, dice: random.Random) -> str:
    return dice.choice([each for each in string.ascii_letters + string.digits if each != character])


def byte_flip(records: list[Record], dice: random.Random) -> Case:
    index = dice.randrange(RECORDS)
    match dice.randrange(4):
        case 0:
            changed(records[index], dice)
        case 1:  # and its own hash with it; of the last record that is a full re-hash
            index = min(index, RECORDS - 2)
            changed(records[index], dice)
            records[index]["hash"] = digest(records[index]["prev_hash"], content_of(records[index]))
        case 2:
            flip_hash(records[index], "hash", dice)
        case 3:
            flip_hash(records[index], "prev_hash", dice)
    return Case(records, index + 1)


def flip_hash(record: Record, name: str, dice: random.Random) -> None:
    place = dice.randrange(64)
    digit = dice.choice([each for each in "0123456789abcdef" if each != record[name][place]])
    record[name] = record[name][:place] + digit + record[name][place + 1 :]


def middle_delete(records: list[Record], dice: random.Random) -> Case:
    count = dice.randrange(1, 4)
    start = dice.randrange(RECORDS - count)
    del records[start : start + count]
    if dice.random() < 0.5:  # closes the gap in the numbers
        for index in range(start, len(records)):
            records[index]["seq"] = index + 1
    return Case(records, start + 1)


def tail_cut(records: list[Record], dice: random.Random) -> Case:
    kept = dice.randrange(1, RECORDS)
    return Case(records[:kept], kept + 1)


def reorder(records: list[Record], dice: random.Random) -> Case:
    first, second = sorted(dice.sample(range(RECORDS), 2))
    left, right = records[first], records[second]
    left["seq"], right["seq"] = right["seq"], left["seq"]
    if dice.random() < 0.5:  # with hashes that fit the new numbers
        for record in (left, right):
            record["hash"] = digest(record["prev_hash"], content_of(record))
    return Case(records, first + 1)


def insert(records: list[Record], dice: random.Random) -> Case:
    index = dice.randrange(RECORDS)
    forged = deepcopy(records[index])
    changed(forged, dice)
    forged |= {"event_id": (id := f"forged-{dice.random()}"), "_id": id}
    forged["hash"] = digest(forged["prev_hash"], content_of(forged))
    for record in records[index:]:
        record["seq"] += 1
        if dice.random() < 0.5:
            record["hash"] = digest(record["prev_hash"], content_of(record))
    return Case([*records[:index], forged, *records[index:]], index + 1)


def full_rehash(records: list[Record], dice: random.Random) -> Case:
    """No record by itself shows it: the first one that no checkpoint vouches for any more is named."""
    index = dice.randrange(RECORDS)
    if dice.random() < 0.3 and index < RECORDS - 1:
        del records[index]  # and one more at the end, for the count
        records.append({**deepcopy(records[-1]), "event_id": (id := f"forged-{dice.random()}"), "_id": id})
        for later in range(index, len(records)):
            records[later]["seq"] = later + 1
    else:
        changed(records[index], dice)
    rehash(records, index)
    return Case(records, max((count for count in CHECKPOINTS if count <= index), default=0) + 1)


KINDS = (byte_flip, middle_delete, tail_cut, reorder, insert, full_rehash)
REASONS = {tail_cut: {Tampering.TAIL_CUT}, full_rehash: {Tampering.REWRITTEN}}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_of_a_hundred_cases_are_found_and_named(
    kept: tuple[Keeping, list[Record]], kind: Callable[[list[Record], random.Random], Case]
) -> None:
    keeping, records = kept
    wrong = []
    for number in range(CASES):
        case = kind(deepcopy(records), random.Random(f"{kind.__name__} {number}"))
        replace(keeping, case.records)
        found = keeping.verify()
        bad = found.first_bad
        if found.valid or bad is None or bad.seq != case.first_bad or bad.reason not in REASONS.get(kind, {bad.reason}):
            wrong.append((number, case.first_bad, bad))
    replace(keeping, records)
    assert keeping.verify().valid
    assert wrong == []


def test_a_head_that_was_cut_with_its_tail_is_what_a_checkpoint_is_for(kept: tuple[Keeping, list[Record]]) -> None:
    """The same case without one goes unseen."""
    keeping, records = kept
    replace(keeping, records[:-1])
    assert Keeping(keeping.database, keeping.settings, None, None).verify().valid
    assert not keeping.verify().valid
    replace(keeping, records)
    last = records[-1]
    assert keeping.verify().head == Head(last["seq"], last["hash"])
