"""Aggregation expressions: an allow-list, compiled into functions of a document."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from bson.decimal128 import Decimal128
from bson.int64 import Int64

from infra.mongo_server.dates import date_to_string, date_trunc
from infra.mongo_server.errors import CommandError, bad_value, not_supported
from infra.mongo_server.keys import NULL_KEY, encode
from infra.mongo_server.paths import MISSING, Doc, split

Expression = Callable[[Doc], Any]  # may give MISSING


def truthy(value: Any) -> bool:
    return value is not None and value is not MISSING and value is not False and value != 0


def comparable(value: Any) -> bytes:
    return NULL_KEY if value is MISSING else encode(value)


def compile_expression(spec: Any) -> Expression:
    """Unknown operators and variables are refused here, before any document is read."""
    if isinstance(spec, str) and spec.startswith("$"):
        return _reference(spec)
    if isinstance(spec, list):
        items = [compile_expression(item) for item in spec]
        return lambda doc: [_null(item(doc)) for item in items]
    if not isinstance(spec, dict):
        return lambda doc: spec
    if not any(name.startswith("$") for name in spec):
        fields = {name: compile_expression(item) for name, item in spec.items()}
        return lambda doc: {name: value for name, item in fields.items() if (value := item(doc)) is not MISSING}
    if len(spec) != 1:
        raise bad_value("an expression must have exactly one operator")
    ((name, operand),) = spec.items()
    if name == "$literal":
        return lambda doc: operand
    if name in _NAMED:
        return _NAMED[name](operand)
    if name in _PLAIN:
        function, least, most = _PLAIN[name]
        return _call(name, function, operand, least, most)
    raise CommandError(168, f"Unrecognized expression '{name}'")


def _null(value: Any) -> Any:
    return None if value is MISSING else value


def _reference(text: str) -> Expression:
    if text.startswith("$$"):
        variable, _, path = text[2:].partition(".")
        if variable not in ("ROOT", "CURRENT"):
            raise not_supported(f"the variable $${variable}")
        if not path:
            return lambda doc: doc
    else:
        path = text[1:]
    parts = split(path)
    if len(parts) == 1:
        return lambda doc: doc.get(parts[0], MISSING)
    return lambda doc: _descend(doc, parts)


def _descend(value: Any, parts: tuple[str, ...]) -> Any:
    """A path in an expression: through an array it gives the array of what its objects have there."""
    for position, part in enumerate(parts):
        if isinstance(value, list):
            found = [_descend(item, parts[position:]) for item in value if isinstance(item, dict)]
            return [item for item in found if item is not MISSING]
        if not isinstance(value, dict):
            return MISSING
        value = value.get(part, MISSING)
    return value


def _call(name: str, function: Callable[..., Any], operand: Any, least: int, most: int) -> Expression:
    items = [compile_expression(item) for item in (operand if isinstance(operand, list) else [operand])]
    if not least <= len(items) <= most:
        raise bad_value(f"{name} takes {least} to {most} arguments, not {len(items)}")
    return lambda doc: function(*[item(doc) for item in items])


def _nothing(*values: Any) -> bool:
    return any(value is None or value is MISSING for value in values)


def _number(name: str, value: Any) -> Any:
    if isinstance(value, Decimal128):
        raise not_supported(f"{name} of a Decimal128")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandError(14, f"{name} only takes numbers, not {type(value).__name__}")
    return value


def sized(value: Any) -> Any:
    """An integer as BSON has it: beyond 64 bits it becomes a double, as on a real server."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(1 << 63) <= value < 1 << 63:
            return float(value)
        return value if -(1 << 31) <= value < 1 << 31 else Int64(value)
    return value


def _add(*values: Any) -> Any:
    if _nothing(*values):
        return None
    dates = [value for value in values if type(value).__name__ == "datetime"]
    if not dates:
        return sized(sum(_number("$add", value) for value in values))
    if len(dates) > 1:
        raise CommandError(14, "$add takes at most one date")
    rest = sum(_number("$add", value) for value in values if value is not dates[0])
    return dates[0] + timedelta(milliseconds=round(rest))


def _subtract(left: Any, right: Any) -> Any:
    if _nothing(left, right):
        return None
    if type(left).__name__ == "datetime":
        if type(right).__name__ == "datetime":
            return Int64((left - right) // timedelta(milliseconds=1))
        return left - timedelta(milliseconds=round(_number("$subtract", right)))
    return sized(_number("$subtract", left) - _number("$subtract", right))


def _multiply(*values: Any) -> Any:
    if _nothing(*values):
        return None
    product: Any = 1
    for value in values:
        product = product * _number("$multiply", value)
    return sized(product)


def _divide(left: Any, right: Any) -> Any:
    if _nothing(left, right):
        return None
    if _number("$divide", right) == 0:
        raise bad_value("can't $divide by zero")
    return _number("$divide", left) / right


def _concat(*values: Any) -> Any:
    if _nothing(*values):
        return None
    if not all(isinstance(value, str) for value in values):
        raise CommandError(16702, "$concat only takes strings")
    return "".join(values)


def _case(change: Callable[[str], str]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if _nothing(value):
            return ""
        if not isinstance(value, str):
            raise bad_value("$toLower and $toUpper only take strings")
        return change(value)

    return convert


def _size(value: Any) -> int:
    if not isinstance(value, list):
        raise CommandError(17124, "the argument to $size must be an array")
    return len(value)


def _in(value: Any, array: Any) -> bool:
    if not isinstance(array, list):
        raise CommandError(40081, "$in needs an array")
    return comparable(value) in {encode(item) for item in array}


def _element_at(array: Any, position: Any) -> Any:
    if _nothing(array, position):
        return None
    if not isinstance(array, list) or type(position) not in (int, Int64):
        raise CommandError(28689, "$arrayElemAt takes an array and a whole number")
    return array[position] if -len(array) <= position < len(array) else MISSING


def _if_null(*values: Any) -> Any:
    return next((value for value in values[:-1] if not _nothing(value)), values[-1])


def _condition(operand: Any) -> Expression:
    if isinstance(operand, dict):
        if set(operand) != {"if", "then", "else"}:
            raise bad_value("$cond takes if, then and else")
        operand = [operand["if"], operand["then"], operand["else"]]
    if not isinstance(operand, list) or len(operand) != 3:
        raise bad_value("$cond takes three arguments")
    check, then, otherwise = map(compile_expression, operand)
    return lambda doc: then(doc) if truthy(check(doc)) else otherwise(doc)


def _date_function(name: str, function: Callable[..., Any], required: set[str], optional: set[str]) -> Any:
    def compiled(operand: Any) -> Expression:
        if not isinstance(operand, dict) or set(operand) - required - optional or required - set(operand):
            raise bad_value(f"{name} takes {sorted(required)} and may take {sorted(optional)}")
        arguments = {key: compile_expression(item) for key, item in operand.items()}
        return lambda doc: function(**{key: _null(item(doc)) for key, item in arguments.items()})

    return compiled


_MANY = 100
_PLAIN: dict[str, tuple[Callable[..., Any], int, int]] = {
    "$eq": (lambda left, right: comparable(left) == comparable(right), 2, 2),
    "$ne": (lambda left, right: comparable(left) != comparable(right), 2, 2),
    "$gt": (lambda left, right: comparable(left) > comparable(right), 2, 2),
    "$gte": (lambda left, right: comparable(left) >= comparable(right), 2, 2),
    "$lt": (lambda left, right: comparable(left) < comparable(right), 2, 2),
    "$lte": (lambda left, right: comparable(left) <= comparable(right), 2, 2),
    "$and": (lambda *values: all(map(truthy, values)), 0, _MANY),
    "$or": (lambda *values: any(map(truthy, values)), 0, _MANY),
    "$not": (lambda value: not truthy(value), 1, 1),
    "$add": (_add, 1, _MANY),
    "$subtract": (_subtract, 2, 2),
    "$multiply": (_multiply, 1, _MANY),
    "$divide": (_divide, 2, 2),
    "$concat": (_concat, 1, _MANY),
    "$toLower": (_case(str.lower), 1, 1),
    "$toUpper": (_case(str.upper), 1, 1),
    "$size": (_size, 1, 1),
    "$in": (_in, 2, 2),
    "$arrayElemAt": (_element_at, 2, 2),
    "$ifNull": (_if_null, 2, _MANY),
}
_NAMED: dict[str, Callable[[Any], Expression]] = {
    "$cond": _condition,
    "$dateTrunc": _date_function("$dateTrunc", date_trunc, {"date", "unit"}, {"binSize", "timezone", "startOfWeek"}),
    "$dateToString": _date_function("$dateToString", date_to_string, {"date"}, {"format", "timezone", "onNull"}),
}
