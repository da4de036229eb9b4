"""Filters: a query document compiled once into a predicate over decoded documents.

Compiling refuses unknown operators even where no document would reach them.
"""

import re
from collections.abc import Callable
from typing import Any

from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from infra.mongo_server.errors import bad_value, not_supported
from infra.mongo_server.keys import NULL_KEY, encode
from infra.mongo_server.paths import MISSING, Doc, lookup, split

Predicate = Callable[[Doc], bool]
ValuesTest = Callable[[list[Any]], bool]  # over everything one path reaches
Test = Callable[[Any], bool]  # over one value

_DEPTH_MAX = 32


def compile_filter(query: Any, depth: int = 0) -> Predicate:
    """A predicate for the whole query document."""
    if not isinstance(query, dict):
        raise bad_value("a filter must be an object")
    if depth > _DEPTH_MAX:
        raise bad_value("the filter is nested too deeply")
    predicates = [predicate for key, value in query.items() if (predicate := _clause(key, value, depth)) is not None]
    if not predicates:
        return lambda doc: True
    if len(predicates) == 1:
        return predicates[0]
    return lambda doc: all(predicate(doc) for predicate in predicates)


def _clause(key: str, value: Any, depth: int) -> Predicate | None:
    if key == "$comment":
        return None
    if key in ("$and", "$or", "$nor"):
        return _logical(key, value, depth)
    if key == "$expr":
        from infra.mongo_server.expressions import compile_expression, truthy

        expression = compile_expression(value)
        return lambda doc: truthy(expression(doc))
    if key.startswith("$"):
        raise bad_value(f"unknown top level operator: {key}")
    parts = split(key)
    test = compile_condition(value, depth)
    if len(parts) == 1:
        return lambda doc: test([doc.get(key, MISSING)])
    return lambda doc: test(lookup(doc, parts))


def _logical(key: str, value: Any, depth: int) -> Predicate:
    if not isinstance(value, list) or not value:
        raise bad_value(f"{key} must be a nonempty array")
    branches = [compile_filter(branch, depth + 1) for branch in value]
    if key == "$and":
        return lambda doc: all(branch(doc) for branch in branches)
    if key == "$or":
        return lambda doc: any(branch(doc) for branch in branches)
    return lambda doc: not any(branch(doc) for branch in branches)


def is_operators(condition: Any) -> bool:
    """Whether a condition is `{$op: ...}`; a mixture of operators and fields is refused."""
    if not isinstance(condition, dict) or not condition:
        return False
    marked: list[bool] = [name.startswith("$") for name in condition]
    if any(marked) and not all(marked):
        raise bad_value("operators and field names stand side by side in a condition")
    return marked[0]


def compile_condition(condition: Any, depth: int = 0) -> ValuesTest:
    """What stands right of a field name: a value to equal, a regular expression or operators."""
    if isinstance(condition, Regex):
        return _any(_regex_test(condition))
    if not is_operators(condition):
        return _any(_equals(condition))
    if "$options" in condition and "$regex" not in condition:
        raise bad_value("$options needs a $regex")
    tests = [_operator(name, operand, condition, depth) for name, operand in condition.items() if name != "$options"]
    if len(tests) == 1:
        return tests[0]
    return lambda values: all(test(values) for test in tests)


def _any(test: Test) -> ValuesTest:
    """A value passes itself, an array also through any of its elements."""

    def passes(values: list[Any]) -> bool:
        for value in values:
            if test(value):
                return True
            if isinstance(value, list) and any(map(test, value)):
                return True
        return False

    return passes


def _key(value: Any) -> bytes:
    return NULL_KEY if value is MISSING else encode(value)


def _equals(operand: Any) -> Test:
    wanted = encode(operand)
    return lambda value: _key(value) == wanted


def _operator(name: str, operand: Any, condition: Doc, depth: int) -> ValuesTest:
    if name in _COMPARISONS:
        return _any(_comparison(name, operand))
    match name:
        case "$eq":
            return _any(_equals(operand))
        case "$ne":
            return _negate(_any(_equals(operand)))
        case "$in":
            return _any(_membership(name, operand))
        case "$nin":
            return _negate(_any(_membership(name, operand)))
        case "$exists":
            wanted = bool(operand)
            return lambda values: any(value is not MISSING for value in values) is wanted
        case "$not":
            if not isinstance(operand, Regex) and not is_operators(operand):
                raise bad_value("$not needs a regex or operators")
            return _negate(compile_condition(operand, depth + 1))
        case "$regex":
            return _any(_regex_operator(operand, condition.get("$options", "")))
        case "$type":
            return _type(operand)
        case "$size":
            if not isinstance(operand, int) or operand < 0:
                raise bad_value("$size must be a whole number of at least 0")
            return lambda values: any(isinstance(value, list) and len(value) == operand for value in values)
        case "$all":
            if not isinstance(operand, list):
                raise bad_value("$all needs an array")
            tests = [compile_condition(item, depth + 1) for item in operand]
            return lambda values: bool(tests) and all(test(values) for test in tests)
        case "$elemMatch":
            return _element(operand, depth)
    raise bad_value(f"unknown operator: {name}")


def _negate(test: ValuesTest) -> ValuesTest:
    return lambda values: not test(values)


_COMPARISONS: dict[str, Callable[[bytes, bytes], bool]] = {
    "$gt": lambda left, right: left > right,
    "$gte": lambda left, right: left >= right,
    "$lt": lambda left, right: left < right,
    "$lte": lambda left, right: left <= right,
}


def _comparison(name: str, operand: Any) -> Test:
    compare = _COMPARISONS[name]
    wanted = encode(operand)
    bracket = wanted[0]
    if bracket in (1, 50, 127):
        raise not_supported(f"{name} with a {type(operand).__name__}")

    def test(value: Any) -> bool:
        key = _key(value)
        return key[0] == bracket and compare(key, wanted)

    return test


def _membership(name: str, operand: Any) -> Test:
    if not isinstance(operand, list):
        raise bad_value(f"{name} needs an array")
    keys = {encode(item) for item in operand if not isinstance(item, Regex)}
    patterns = [_regex_test(item) for item in operand if isinstance(item, Regex)]
    return lambda value: _key(value) in keys or any(pattern(value) for pattern in patterns)


def _regex_operator(operand: Any, options: Any) -> Test:
    if not isinstance(options, str) or set(options) - set("imsx"):
        raise bad_value(f"invalid regular expression options {options!r}")
    if isinstance(operand, str):
        return _regex_test(Regex(operand, "".join(options)))
    if isinstance(operand, Regex) and not options:
        return _regex_test(operand)
    raise bad_value("$regex has to be a string, or a regular expression without $options")


def _regex_test(regex: Regex[Any]) -> Test:
    try:
        pattern = re.compile(regex.pattern, regex.flags)
    except re.error as error:
        raise bad_value(f"the regular expression is invalid: {error}") from error
    return lambda value: (isinstance(value, str) and pattern.search(value) is not None) or value == regex


def _element(operand: Any, depth: int) -> ValuesTest:
    if not isinstance(operand, dict):
        raise bad_value("$elemMatch needs an object")
    if is_operators(operand) and not set(operand) & {"$and", "$or", "$nor"}:
        condition = compile_condition(operand, depth + 1)
        return lambda values: any(
            isinstance(value, list) and any(condition([item]) for item in value) for value in values
        )
    predicate = compile_filter(operand, depth + 1)
    return lambda values: any(
        isinstance(value, list) and any(isinstance(item, dict) and predicate(item) for item in value)
        for value in values
    )


def _is_int(value: Any) -> bool:
    return type(value) is int


_TYPES: dict[Any, Test] = {
    "double": lambda value: isinstance(value, float),
    "string": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "binData": lambda value: isinstance(value, bytes),
    "objectId": lambda value: isinstance(value, ObjectId),
    "bool": lambda value: isinstance(value, bool),
    "date": lambda value: type(value).__name__ == "datetime",
    "null": lambda value: value is None,
    "int": _is_int,
    "long": lambda value: isinstance(value, Int64),
    "decimal": lambda value: type(value).__name__ == "Decimal128",
    "number": lambda value: (
        (isinstance(value, int | float) and not isinstance(value, bool)) or type(value).__name__ == "Decimal128"
    ),
}


def _type(operand: Any) -> ValuesTest:
    names = operand if isinstance(operand, list) else [operand]
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            raise bad_value(f"unknown $type {name!r} (only names are supported)")
    tests = [_TYPES[name] for name in names]
    return _any(lambda value: any(test(value) for test in tests))
