"""`$group`: one pass, one state per group and field."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from bson.decimal128 import Decimal128

from infra.mongo_server.errors import CommandError, not_supported
from infra.mongo_server.expressions import Expression, comparable, compile_expression, sized
from infra.mongo_server.keys import encode
from infra.mongo_server.paths import MISSING, Doc

GROUPS_MAX: Final = 100_000
ITEMS_MAX: Final = 200_000  # kept by one $push or $addToSet


class Accumulator:
    """The state of one field of one group."""

    def add(self, value: Any) -> None:
        raise NotImplementedError

    def result(self) -> Any:
        raise NotImplementedError


def _number(value: Any) -> Any:
    """A number, or None for what `$sum` and `$avg` pass over."""
    if isinstance(value, Decimal128):
        raise not_supported("arithmetic with a Decimal128")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


class _Sum(Accumulator):
    def __init__(self) -> None:
        self.total: Any = 0

    def add(self, value: Any) -> None:
        number = _number(value)
        if number is not None:
            self.total += number

    def result(self) -> Any:
        return sized(self.total)


class _Average(_Sum):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def add(self, value: Any) -> None:
        super().add(value)
        self.count += _number(value) is not None

    def result(self) -> Any:
        return self.total / self.count if self.count else None


class _Extreme(Accumulator):
    def __init__(self, wins: Callable[[bytes, bytes], bool]) -> None:
        self.wins = wins
        self.best: Any = None
        self.key: bytes | None = None

    def add(self, value: Any) -> None:
        if value is None or value is MISSING:
            return
        key = encode(value)
        if self.key is None or self.wins(key, self.key):
            self.best, self.key = value, key

    def result(self) -> Any:
        return self.best


class _First(Accumulator):
    def __init__(self) -> None:
        self.value: Any = MISSING
        self.known = False

    def add(self, value: Any) -> None:
        if not self.known:
            self.value, self.known = value, True

    def result(self) -> Any:
        return None if self.value is MISSING else self.value


class _Last(_First):
    def add(self, value: Any) -> None:
        self.value = value


class _Push(Accumulator):
    def __init__(self) -> None:
        self.items: list[Any] = []

    def add(self, value: Any) -> None:
        if value is MISSING:
            return
        if len(self.items) >= ITEMS_MAX:
            raise CommandError(292, f"more than {ITEMS_MAX} items in one group")
        self.items.append(value)

    def result(self) -> Any:
        return self.items


class _AddToSet(_Push):
    def __init__(self) -> None:
        super().__init__()
        self.keys: set[bytes] = set()

    def add(self, value: Any) -> None:
        if value is not MISSING and (key := encode(value)) not in self.keys:
            self.keys.add(key)
            super().add(value)


class _Count(_Sum):
    def add(self, value: Any) -> None:
        self.total += 1


_ACCUMULATORS: dict[str, Callable[[], Accumulator]] = {
    "$sum": _Sum,
    "$avg": _Average,
    "$min": lambda: _Extreme(lambda new, old: new < old),
    "$max": lambda: _Extreme(lambda new, old: new > old),
    "$first": _First,
    "$last": _Last,
    "$push": _Push,
    "$addToSet": _AddToSet,
    "$count": _Count,
}


def compile_group(spec: Any) -> Callable[[Iterator[Doc]], Iterator[Doc]]:
    if not isinstance(spec, dict) or "_id" not in spec:
        raise CommandError(15955, "a group specification must include an _id")
    identity = compile_expression(spec["_id"])
    fields = {name: _field(name, operand) for name, operand in spec.items() if name != "_id"}

    def grouped(docs: Iterator[Doc]) -> Iterator[Doc]:
        groups: dict[bytes, tuple[Any, list[Accumulator]]] = {}
        for doc in docs:
            value = identity(doc)
            key = comparable(value)
            group = groups.get(key)
            if group is None:
                if len(groups) >= GROUPS_MAX:
                    raise CommandError(292, f"$group of more than {GROUPS_MAX} groups")
                group = (None if value is MISSING else value), [make() for make, _ in fields.values()]
                groups[key] = group
            for accumulator, (_, expression) in zip(group[1], fields.values(), strict=True):
                accumulator.add(expression(doc))
        for value, accumulators in groups.values():
            results = zip(fields, accumulators, strict=True)
            yield {"_id": value, **{name: accumulator.result() for name, accumulator in results}}

    return grouped


def _field(name: str, operand: Any) -> tuple[Callable[[], Accumulator], Expression]:
    if "." in name or name.startswith("$"):
        raise CommandError(40235, f"the field name {name!r} of $group must not contain '.' or start with '$'")
    if not isinstance(operand, dict) or len(operand) != 1:
        raise CommandError(40234, f"the field {name!r} must be an accumulator object")
    ((accumulator, argument),) = operand.items()
    if accumulator not in _ACCUMULATORS:
        raise CommandError(15952, f"unknown group operator '{accumulator}'")
    if accumulator == "$count" and argument != {}:
        raise CommandError(9, "$count takes no arguments, i.e. $count: {}")
    return _ACCUMULATORS[accumulator], compile_expression(argument)
