"""Projections: which fields of a document are returned, and (in `$project` only) computed ones."""

from collections.abc import Callable
from typing import Any

from infra.mongo_server.errors import bad_value, not_supported
from infra.mongo_server.expressions import Expression, compile_expression
from infra.mongo_server.match import is_operators
from infra.mongo_server.paths import MISSING, Doc, set_one, split

Projection = Callable[[Doc], Doc]
Tree = dict[str, Any]  # a field to None (the whole of it) or to the tree below it


def compile_projection(spec: Any, *, computed: bool) -> Projection:
    """Args: computed: whether expressions are allowed (`$project`), else they are refused (`find`)."""
    if not isinstance(spec, dict):
        raise bad_value("a projection must be an object")
    flags: dict[str, bool] = {}
    expressions: dict[str, Expression] = {}
    _flatten(spec, "", flags, expressions)
    if expressions and not computed:
        raise not_supported("an expression in a find projection")
    with_id = flags.pop("_id", None)
    if not flags and not expressions:
        including = bool(with_id)
    else:
        including = bool(expressions) or any(flags.values())
    if any(flag != including for flag in flags.values()):
        raise bad_value("a projection cannot both include and exclude fields")
    if not including:
        excluded = _tree([*flags, *(["_id"] if with_id is False else [])])
        return lambda doc: _exclude(doc, excluded)
    return _inclusion(
        _tree([*flags, *(["_id"] if with_id is not False and "_id" not in expressions else [])]), expressions
    )


def _flatten(spec: Doc, prefix: str, flags: dict[str, bool], expressions: dict[str, Expression]) -> None:
    for name, value in spec.items():
        path = prefix + name
        split(path)
        if "$" in path:
            raise not_supported(f"the projection {path!r}")
        if isinstance(value, bool | int | float):
            flags[path] = bool(value)
        elif isinstance(value, dict) and value and not is_operators(value):
            _flatten(value, path + ".", flags, expressions)
        else:
            expressions[path] = compile_expression(value)


def _tree(paths: list[str]) -> Tree:
    tree: Tree = {}
    for path in paths:
        node = tree
        *way, last = split(path)
        for part in way:
            node = node.setdefault(part, {})
            if node is None:
                raise bad_value(f"path collision at {path!r}")
        if last in node:
            raise bad_value(f"path collision at {path!r}")
        node[last] = None
    return tree


def _inclusion(tree: Tree, expressions: dict[str, Expression]) -> Projection:
    paths = [(split(path), expression) for path, expression in expressions.items()]

    def project(doc: Doc) -> Doc:
        result: Doc = _include(doc, tree)
        for parts, expression in paths:
            value = expression(doc)
            if value is not MISSING:
                set_one(result, parts, value)
        return result

    return project


def _include(value: Doc, tree: Tree) -> Doc:
    result: Doc = {}
    for name, item in value.items():
        if name not in tree:
            continue
        below = tree[name]
        if below is None:
            result[name] = item
        elif isinstance(item, dict):
            result[name] = _include(item, below)
        elif isinstance(item, list):
            result[name] = [_include(element, below) for element in item if isinstance(element, dict)]
    return result


def _exclude(value: Doc, tree: Tree) -> Doc:
    result: Doc = {}
    for name, item in value.items():
        if name not in tree:
            result[name] = item
            continue
        below = tree[name]
        if below is None:
            continue
        if isinstance(item, dict):
            item = _exclude(item, below)
        elif isinstance(item, list):
            item = [_exclude(element, below) if isinstance(element, dict) else element for element in item]
        result[name] = item
    return result
