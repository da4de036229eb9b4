"""Updates: replacement documents and operators, applied to decoded documents."""

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from infra.mongo_server.errors import CommandError, bad_value, not_supported
from infra.mongo_server.keys import encode
from infra.mongo_server.match import compile_condition, compile_filter, is_operators
from infra.mongo_server.paths import MISSING, Doc, Parts, get_one, set_one, split, unset_one

_INT32: Final = 1 << 31
_INT64: Final = 1 << 63
Change = Callable[[Doc, Parts, Any, datetime], None]


class Update:
    """A checked update. `apply` gives the new content of a document; `insertion` builds what an upsert stores."""

    def __init__(self, spec: Any) -> None:
        if isinstance(spec, list):
            raise not_supported("an update by an aggregation pipeline")
        if not isinstance(spec, dict):
            raise CommandError(9, "an update must be an object")
        self.is_replacement = not is_operators(spec)
        self._replacement: Doc = spec if self.is_replacement else {}
        self._changes: list[tuple[str, Change, Parts, Any]] = []
        if not self.is_replacement:
            self._read_operators(spec)

    def _read_operators(self, spec: Doc) -> None:
        paths: list[str] = []
        for name, fields in spec.items():
            if name != "$setOnInsert" and name not in _CHANGES:
                raise CommandError(9, f"unknown modifier: {name}")
            if not isinstance(fields, dict):
                raise CommandError(9, f"the modifiers of {name} must be an object")
            for path, operand in fields.items():
                if "$" in path:
                    raise not_supported(f"a positional or $-prefixed path ({path})")
                _refuse_overlap(path, paths)
                paths.append(path)
                self._changes.append((name, _CHANGES.get(name, _set), split(path), operand))

    def apply(self, body: bytes, doc: Doc, now: datetime) -> Doc:
        """The new content; `doc` (decoded from `body`) stays as it was."""
        if self.is_replacement:
            return self._replace(doc["_id"])
        changed = bson.decode(body)  # a cheaper copy than deepcopy
        for name, change, parts, operand in self._changes:
            if name != "$setOnInsert":
                change(changed, parts, operand, now)
        if "_id" not in changed or encode(changed["_id"]) != encode(doc["_id"]):
            raise CommandError(66, "performing an update on the path '_id' would modify the immutable field '_id'")
        return changed

    def _replace(self, known_id: Any) -> Doc:
        new_id = self._replacement.get("_id", known_id)
        if encode(new_id) != encode(known_id):
            raise CommandError(66, "the (immutable) field '_id' was found to have been altered")
        return {"_id": known_id, **{name: value for name, value in self._replacement.items() if name != "_id"}}

    def insertion(self, query: Doc, now: datetime) -> Doc:
        seed: Doc = {}
        _seed(query, seed)
        if self.is_replacement:
            if "_id" in seed:
                return self._replace(seed["_id"])
            return {"_id": self._replacement.get("_id", ObjectId()), **self._replacement}
        known_id = seed.get("_id", MISSING)
        for _, change, parts, operand in self._changes:
            change(seed, parts, operand, now)
        if known_id is not MISSING and encode(seed.get("_id")) != encode(known_id):
            raise CommandError(66, "performing an update on the path '_id' would modify the immutable field '_id'")
        new_id = seed.pop("_id") if "_id" in seed else ObjectId()
        return {"_id": new_id, **seed}


def _refuse_overlap(path: str, others: list[str]) -> None:
    for other in others:
        if path == other or path.startswith(other + ".") or other.startswith(path + "."):
            raise CommandError(40, f"updating the path {path!r} would create a conflict at {other!r}")


def _seed(query: Doc, seed: Doc) -> None:
    """The equalities of an upsert's filter become fields."""
    for key, condition in query.items():
        if key == "$and":
            for branch in condition:
                _seed(branch, seed)
        elif not key.startswith("$"):
            if is_operators(condition):
                if "$eq" not in condition:
                    continue
                condition = condition["$eq"]
            if get_one(seed, split(key)) is not MISSING:
                raise CommandError(54, f"cannot infer query fields to set, path {key!r} is matched twice")
            set_one(seed, split(key), copy.deepcopy(condition))


def _set(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    set_one(doc, parts, copy.deepcopy(operand))


def _unset(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    unset_one(doc, parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arithmetic(name: str, reckon: Callable[[Any, Any], Any], start: int) -> Change:
    def change(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
        if not _is_number(operand):
            raise CommandError(14, f"cannot {name} with a value of type {type(operand).__name__}")
        old = get_one(doc, parts)
        if old is MISSING:
            old = type(operand)(start)
        if not _is_number(old):
            raise CommandError(14, f"cannot apply {name} to a value of type {type(old).__name__}")
        set_one(doc, parts, _sized(reckon(old, operand), old, operand))

    return change


def _sized(result: Any, *operands: Any) -> Any:
    """Integers keep the width of their operands, grow to 64 bits, and never silently lose digits."""
    if isinstance(result, float):
        return result
    if not -_INT64 <= result < _INT64:
        raise bad_value("the result does not fit a 64-bit integer")
    wide = any(isinstance(operand, Int64) for operand in operands) or not -_INT32 <= result < _INT32
    return Int64(result) if wide else result


def _extreme(wins: Callable[[bytes, bytes], bool]) -> Change:
    def change(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
        old = get_one(doc, parts)
        if old is MISSING or wins(encode(operand), encode(old)):
            set_one(doc, parts, operand)

    return change


def _current_date(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    if operand is True or operand == {"$type": "date"}:
        set_one(doc, parts, now)
    elif operand == {"$type": "timestamp"}:
        set_one(doc, parts, Timestamp(now, 1))
    else:
        raise bad_value("$currentDate takes true, {$type: 'date'} or {$type: 'timestamp'}")


def _array_at(doc: Doc, parts: Parts, name: str) -> list[Any]:
    old = get_one(doc, parts)
    if old is MISSING:
        old = []
        set_one(doc, parts, old)
    if not isinstance(old, list):
        raise bad_value(f"{name} needs an array at {'.'.join(parts)}")
    return old


def _each(name: str, operand: Any, options: frozenset[str]) -> list[Any]:
    if not isinstance(operand, dict) or "$each" not in operand:
        if isinstance(operand, dict) and any(key.startswith("$") for key in operand):
            raise bad_value(f"unknown modifiers of {name}: {', '.join(operand)}")
        return [operand]
    if unknown := set(operand) - {"$each"} - options:
        raise bad_value(f"unknown modifiers of {name}: {', '.join(sorted(unknown))}")
    if not isinstance(operand["$each"], list):
        raise bad_value(f"$each of {name} needs an array")
    return list(operand["$each"])


def _push(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    items = _each("$push", operand, frozenset({"$slice", "$position"}))
    array = _array_at(doc, parts, "$push")
    options = operand if isinstance(operand, dict) and "$each" in operand else {}
    at = options.get("$position", len(array))
    keep = options.get("$slice")
    if type(at) is not int or (keep is not None and type(keep) is not int):
        raise bad_value("$position and $slice of $push take whole numbers")
    array[at:at] = copy.deepcopy(items)
    if keep is not None:
        array[:] = array[:keep] if keep >= 0 else array[keep:]


def _add_to_set(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    array = _array_at(doc, parts, "$addToSet")
    known = {encode(item) for item in array}
    for item in _each("$addToSet", operand, frozenset()):
        if (key := encode(item)) not in known:
            known.add(key)
            array.append(copy.deepcopy(item))


def _pull(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    old = get_one(doc, parts)
    if old is MISSING:
        return
    if not isinstance(old, list):
        raise bad_value("$pull needs an array")
    if isinstance(operand, dict) and not is_operators(operand):
        fields = compile_filter(operand)
        old[:] = [item for item in old if not (isinstance(item, dict) and fields(item))]
    else:
        condition = compile_condition(operand)
        old[:] = [item for item in old if not condition([item])]


def _pop(doc: Doc, parts: Parts, operand: Any, now: datetime) -> None:
    if operand not in (1, -1):
        raise bad_value("$pop takes 1 or -1")
    old = get_one(doc, parts)
    if old is MISSING:
        return
    if not isinstance(old, list):
        raise CommandError(14, "$pop needs an array")
    if old:
        old.pop(-1 if operand == 1 else 0)


_CHANGES: dict[str, Change] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _arithmetic("$inc", lambda old, operand: old + operand, 0),
    "$mul": _arithmetic("$mul", lambda old, operand: old * operand, 0),
    "$min": _extreme(lambda new, old: new < old),
    "$max": _extreme(lambda new, old: new > old),
    "$currentDate": _current_date,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pull": _pull,
    "$pop": _pop,
}
