"""Pipelines: an allow-list of stages, each turning one source of documents into another.

A source can be read again (`$facet` reads it once per facet), so nothing is kept between stages but what sorting and
grouping need, and that is bounded.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from infra.mongo_server.accumulators import compile_group
from infra.mongo_server.errors import CommandError, bad_value
from infra.mongo_server.match import compile_filter
from infra.mongo_server.paths import MISSING, Doc, get_one, set_one, split, unset_one
from infra.mongo_server.projection import compile_projection
from infra.mongo_server.sorting import compile_sort

Source = Callable[[], Iterator[Doc]]
Stage = Callable[[Source], Source]

STAGES_MAX: Final = 100
SORT_DOCUMENTS_MAX: Final = 100_000


def stage_of(spec: Any) -> tuple[str, Any]:
    if not isinstance(spec, dict) or len(spec) != 1:
        raise CommandError(40323, "a pipeline stage must be an object with exactly one field")
    return next(iter(spec.items()))


def compile_pipeline(pipeline: Any) -> Stage:
    """All stages checked, also those that no document will reach. `$merge` is the caller's."""
    if not isinstance(pipeline, list):
        raise CommandError(14, "a pipeline must be an array")
    if len(pipeline) > STAGES_MAX:
        raise bad_value(f"a pipeline has at most {STAGES_MAX} stages")
    stages = []
    specs = [stage_of(spec) for spec in pipeline]
    for position, (name, operand) in enumerate(specs):
        if name == "$sort":
            stages.append(_sort(operand, _limit_after(specs[position + 1 :])))
        elif name in _STAGES:
            stages.append(_STAGES[name](operand))
        else:
            raise CommandError(40324, f"Unrecognized pipeline stage name: '{name}'")

    def chain(source: Source) -> Source:
        for stage in stages:
            source = stage(source)
        return source

    return chain


def _limit_after(specs: list[tuple[str, Any]]) -> int | None:
    """How many of the sorted documents can matter at all: a following `[$skip] $limit`."""
    skipped = 0
    for name, operand in specs:
        if name == "$skip" and isinstance(operand, int):
            skipped += operand
        elif name == "$limit" and isinstance(operand, int):
            return skipped + operand
        else:
            return None
    return None


def _each(function: Callable[[Iterator[Doc]], Iterable[Doc]]) -> Stage:
    return lambda source: lambda: iter(function(source()))


def _match(operand: Any) -> Stage:
    predicate = compile_filter(operand)
    return _each(lambda docs: filter(predicate, docs))


def _sort(operand: Any, limit: int | None) -> Stage:
    key = compile_sort(operand)

    def ordered(docs: Iterator[Doc]) -> list[Doc]:
        if limit is not None and limit <= SORT_DOCUMENTS_MAX:
            return heapq.nsmallest(limit, docs, key=key)
        held = list(islice(docs, SORT_DOCUMENTS_MAX + 1))
        if len(held) > SORT_DOCUMENTS_MAX:
            raise CommandError(292, f"$sort of more than {SORT_DOCUMENTS_MAX} documents without an index")
        held.sort(key=key)
        return held

    return _each(ordered)


def whole(name: str, operand: Any, least: int) -> int:
    if isinstance(operand, float) and operand.is_integer():
        operand = int(operand)
    if isinstance(operand, bool) or not isinstance(operand, int) or operand < least:
        raise CommandError(15958, f"{name} takes a whole number of at least {least}")
    return operand


def _skip(operand: Any) -> Stage:
    count = whole("$skip", operand, 0)
    return _each(lambda docs: islice(docs, count, None))


def _limit(operand: Any) -> Stage:
    count = whole("$limit", operand, 1)
    return _each(lambda docs: islice(docs, count))


def _project(operand: Any) -> Stage:
    if not operand:
        raise CommandError(51272, "$project must have at least one field")
    projection = compile_projection(operand, computed=True)
    return _each(lambda docs: map(projection, docs))


def _group(operand: Any) -> Stage:
    return _each(compile_group(operand))


def _count(operand: Any) -> Stage:
    if not isinstance(operand, str) or not operand or operand.startswith("$") or "." in operand:
        raise CommandError(40156, "$count takes the name of a field")

    def counted(docs: Iterator[Doc]) -> Iterator[Doc]:
        total = sum(1 for _ in docs)
        if total:
            yield {operand: total}

    return _each(counted)


def _unwind(operand: Any) -> Stage:
    options = operand if isinstance(operand, dict) else {"path": operand}
    if set(options) - {"path", "preserveNullAndEmptyArrays", "includeArrayIndex"}:
        raise CommandError(28811, "unrecognized option to $unwind")
    path = options.get("path")
    if not isinstance(path, str) or not path.startswith("$") or path.startswith("$$"):
        raise CommandError(28818, "the path of $unwind must start with one '$'")
    parts = split(path[1:])
    keep = bool(options.get("preserveNullAndEmptyArrays"))
    index_field = options.get("includeArrayIndex")
    if index_field is not None and (not isinstance(index_field, str) or index_field.startswith("$")):
        raise CommandError(28810, "includeArrayIndex of $unwind takes the name of a field")
    index_parts = None if index_field is None else split(index_field)

    def unwound(docs: Iterator[Doc]) -> Iterator[Doc]:
        for doc in docs:
            value = get_one(doc, parts)
            empty = value is MISSING or value is None or value == []
            if empty and not keep:
                continue
            items = [(None, value)] if empty or not isinstance(value, list) else list(enumerate(value))
            for position, item in items:
                copied = _copy_along(doc, parts)
                if value == []:
                    unset_one(copied, parts)
                elif not empty:
                    set_one(copied, parts, item)
                if index_parts is not None:
                    set_one(copied, index_parts, position)
                yield copied

    return _each(unwound)


def _copy_along(doc: Doc, parts: tuple[str, ...]) -> Doc:
    """A copy that shares with the original all but the objects on the path."""
    copied = dict(doc)
    if len(parts) > 1 and isinstance(copied.get(parts[0]), dict):
        copied[parts[0]] = _copy_along(copied[parts[0]], parts[1:])
    return copied


def _facet(operand: Any) -> Stage:
    if not isinstance(operand, dict) or not operand:
        raise CommandError(40169, "$facet takes an object of pipelines")
    for pipeline in operand.values():
        if isinstance(pipeline, list) and any(isinstance(spec, dict) and "$facet" in spec for spec in pipeline):
            raise CommandError(40600, "$facet is not allowed inside a $facet")
    facets = {name: compile_pipeline(pipeline) for name, pipeline in operand.items()}
    return lambda source: lambda: iter([{name: list(facet(source)()) for name, facet in facets.items()}])


_STAGES: dict[str, Callable[[Any], Stage]] = {
    "$match": _match,
    "$skip": _skip,
    "$limit": _limit,
    "$project": _project,
    "$group": _group,
    "$count": _count,
    "$unwind": _unwind,
    "$facet": _facet,
}
