"""Which index answers a filter and a sort, and which stretches of it have to be read.

A plan yields a superset of the matching documents: the filter runs over what the plan reads. So a bound may be left
out where it is not certain, but must never exclude a match.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.regex import Regex

from infra.mongo_server.catalog import Collection, Index
from infra.mongo_server.keys import NULL_KEY, descending, encode
from infra.mongo_server.match import is_operators
from infra.mongo_server.paths import Doc

# A cut lies before (False) or after (True) every key that starts with the bytes.
Cut = tuple[bytes, bool]
Interval = tuple[Cut, Cut]
Constraints = dict[str, list[Interval]]
Sort = Sequence[tuple[str, int]]

_INTERVALS_MAX: Final = 1000
_SINGLE_BYTE_VALUES: Final = frozenset({b"\x01", NULL_KEY, b"\x7f"})
_RANGES: Final = {"$gt", "$gte", "$lt", "$lte"}


def position(cut: Cut) -> bytes:
    """The first bytes behind a cut."""
    start, after = cut
    if not after:
        return start
    # Not the bytes and 0xff: in reverse order what begins with a zero goes on with 0xff.
    most = start.rstrip(b"\xff")
    return most[:-1] + bytes([most[-1] + 1])


def _point(value: Any) -> Interval:
    key = encode(value)
    return (key, False), (key, True)


def _is_point(interval: Interval) -> bool:
    low, high = interval
    return low[0] == high[0] and not low[1] and high[1] and (len(low[0]) > 1 or low[0] in _SINGLE_BYTE_VALUES)


def _intersect(left: list[Interval], right: list[Interval]) -> list[Interval]:
    found = []
    for low, high in left:
        for other_low, other_high in right:
            both = max(low, other_low, key=position), min(high, other_high, key=position)
            if position(both[0]) < position(both[1]):
                found.append(both)
    return found


def _unite(intervals: list[Interval]) -> list[Interval]:
    """Sorted and disjoint."""
    merged: list[Interval] = []
    for low, high in sorted(intervals, key=lambda interval: position(interval[0])):
        if merged and position(low) <= position(merged[-1][1]):
            merged[-1] = merged[-1][0], max(merged[-1][1], high, key=position)
        else:
            merged.append((low, high))
    if len(merged) > _INTERVALS_MAX:
        return [(merged[0][0], merged[-1][1])]
    return merged


def constraints(query: Doc, *, tight: bool) -> Constraints:
    """What the filter says about each path.

    Args:
        tight: intersect all that is said about a path. Not for indexes over arrays, where two conditions may be met
            by two elements: there each path keeps the first that was said.
    """
    found: Constraints = {}

    def add(path: str, intervals: list[Interval]) -> None:
        if path not in found:
            found[path] = intervals
        elif tight:
            found[path] = _intersect(found[path], intervals)

    for key, value in query.items():
        if key == "$and":
            for branch in value:
                for path, intervals in constraints(branch, tight=tight).items():
                    add(path, intervals)
        elif key == "$or":
            for path, intervals in _either(value, tight=tight).items():
                add(path, intervals)
        elif not key.startswith("$"):
            for intervals in _condition(value):
                add(key, intervals)
    return found


def _either(branches: list[Doc], *, tight: bool) -> Constraints:
    """Of `$or` only what every branch constrains: the union. Keyset paging lives on this."""
    each = [constraints(branch, tight=tight) for branch in branches]
    shared = set(each[0]).intersection(*each[1:])
    return {path: _unite([interval for branch in each for interval in branch[path]]) for path in shared}


def _condition(condition: Any) -> list[list[Interval]]:
    if isinstance(condition, Regex):
        return []
    if not is_operators(condition):
        return [] if _opaque(condition) else [[_point(condition)]]
    found = []
    for name, operand in condition.items():
        if name == "$eq" and not _opaque(operand):
            found.append([_point(operand)])
        elif name == "$in" and not any(map(_opaque, operand)):
            found.append(_unite([_point(item) for item in operand]))
        elif name in _RANGES and not _opaque(operand):
            found.append([_range(name, encode(operand))])
    return found


def _opaque(value: Any) -> bool:
    """Whether index entries say nothing certain about equality with it (an array's entries are its elements)."""
    return isinstance(value, list | Regex | Decimal128)


def _range(name: str, key: bytes) -> Interval:
    bracket = key[:1]
    match name:
        case "$gt":
            return (key, True), (bracket, True)
        case "$gte":
            return (key, False), (bracket, True)
        case "$lt":
            return (bracket, False), (key, False)
        case _:
            return (bracket, False), (key, True)


@dataclass(frozen=True, slots=True)
class Plan:
    """Stretches [low, high) of an index in reading order, or the whole table where `index` is None."""

    index: Index | None
    ranges: tuple[tuple[bytes, bytes], ...]
    backward: bool
    sorted: bool  # rows come in the wanted order

    def describe(self) -> Doc:
        if self.index is None:
            return {"stage": "COLLSCAN", "direction": "backward" if self.backward else "forward"}
        scan = {
            "stage": "IXSCAN",
            "indexName": self.index.name,
            "keyPattern": dict(self.index.spec["key"]),
            "isMultiKey": self.index.multikey,
            "direction": "backward" if self.backward else "forward",
        }
        return {"stage": "FETCH", "inputStage": scan}


_EVERYTHING: Final = ((b"", b"\xff"),)


def choose(collection: Collection, query: Doc, sort: Sort) -> Plan:
    """The best index by this order: most fields pinned to one value, the sort for free, a range on the next field."""
    tight, loose = constraints(query, tight=True), constraints(query, tight=False)
    best = Plan(None, (), backward=False, sorted=not sort)
    best_score: tuple[int, ...] = (0, 0, 0, 0)
    for index in collection.indexes:
        known = loose if index.multikey else tight
        if not _usable(index, known):
            continue
        plan, score = _plan(index, known, sort)
        if score > best_score:
            best, best_score = plan, score
    return best


def _usable(index: Index, known: Constraints) -> bool:
    """Whether an index that leaves documents out holds all that can match."""
    if index.partial is not None:
        return all(_implied(path, condition, known) for path, condition in index.partial.items())
    if index.sparse:
        return any(_excludes_null(known.get(path)) for path, _ in index.fields)
    return True


def _excludes_null(intervals: list[Interval] | None) -> bool:
    return intervals is not None and not _intersect(intervals, [_point(None)])


def _implied(path: str, condition: Any, known: Constraints) -> bool:
    """Whether what the query says about a path implies one clause of a partial filter expression."""
    intervals = known.get(path)
    if intervals is None or path.startswith("$"):
        return False
    if isinstance(condition, dict) and condition.get("$exists") is True and len(condition) == 1:
        return _excludes_null(intervals)
    clauses = _condition(condition)
    if not clauses or (isinstance(condition, dict) and is_operators(condition) and len(clauses) != len(condition)):
        return False
    return all(_inside(interval, allowed) for allowed in clauses for interval in intervals)


def _inside(interval: Interval, allowed: list[Interval]) -> bool:
    return any(
        position(low) <= position(interval[0]) and position(interval[1]) <= position(high) for low, high in allowed
    )


def _plan(index: Index, known: Constraints, sort: Sort) -> tuple[Plan, tuple[int, ...]]:
    prefix = b""
    pinned = 0
    for path, direction in index.fields:
        intervals = known.get(path)
        if intervals is None or len(intervals) != 1 or not _is_point(intervals[0]):
            break
        if index.multikey and pinned:  # entries pair the fields of one element; a match may take two elements
            break
        key = intervals[0][0][0]
        prefix += key if direction > 0 else descending(key)
        pinned += 1
    ranges: list[tuple[bytes, bytes]] = [(prefix, prefix + b"\xff")]
    bounded = 0
    whole = int(index.unique and pinned == len(index.fields))
    if pinned < len(index.fields) and not (index.multikey and pinned):
        path, direction = index.fields[pinned]
        if (intervals := known.get(path)) is not None:
            ranges = [_stretch(prefix, interval, direction) for interval in intervals]
            ranges.sort()
            bounded = 1
            whole = int(index.unique and pinned + 1 == len(index.fields) and all(map(_is_point, intervals)))
    backward = _direction(index, known, pinned, sort)
    plan = Plan(
        index,
        tuple(reversed(ranges) if backward else ranges) if pinned or bounded else _EVERYTHING,
        backward=bool(backward),
        sorted=backward is not None,
    )
    return plan, (whole, pinned, int(bool(sort) and plan.sorted), bounded)


def _stretch(prefix: bytes, interval: Interval, direction: int) -> tuple[bytes, bytes]:
    low, high = interval
    if direction < 0:
        low, high = (descending(high[0]), not high[1]), (descending(low[0]), not low[1])
    return prefix + position(low), prefix + position(high)


def _direction(index: Index, known: Constraints, pinned: int, sort: Sort) -> bool | None:
    """Whether to read backward so that rows come sorted; None if they do not come sorted."""
    if not sort:
        return False
    if index.multikey:
        return None
    fixed = {path for path, _ in index.fields[:pinned]}
    open_sort = [(path, direction) for path, direction in sort if path not in fixed]
    rest = index.fields[pinned:]
    if len(open_sort) > len(rest):
        # Beyond a whole unique key nothing is left to order.
        return False if index.unique and pinned == len(index.fields) else None
    turns = set()
    for (wanted, wanted_direction), (path, direction) in zip(open_sort, rest, strict=False):
        if wanted != path:
            return None
        turns.add(wanted_direction != direction)
    return None if len(turns) > 1 else turns == {True}
