"""Dotted paths: reading every value a path reaches, setting and removing one."""

from typing import Any, Final

from infra.mongo_server.errors import CommandError

Doc = dict[str, Any]
Parts = tuple[str, ...]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def split(path: str) -> Parts:
    parts = tuple(path.split("."))
    if not all(parts):
        raise CommandError(2, f"the path {path!r} has an empty component")
    return parts


def lookup(value: Any, parts: Parts, position: int = 0) -> list[Any]:
    """Every value the path reaches, fanning out over arrays on the way; MISSING where an object lacks it.

    An array at the end is one value. An array of scalars on the way yields nothing.
    """
    if isinstance(value, dict):
        found = value.get(parts[position], MISSING)
        position += 1
        if position == len(parts):
            return [found]
        if isinstance(found, dict | list):
            return lookup(found, parts, position)
        return [MISSING]
    results: list[Any] = []
    part = parts[position]
    if part.isdigit() and int(part) < len(value):
        element = value[int(part)]
        if position + 1 == len(parts):
            results.append(element)
        elif isinstance(element, dict | list):
            results.extend(lookup(element, parts, position + 1))
    for element in value:
        if isinstance(element, dict):
            results.extend(lookup(element, parts, position))
    return results


def reach(doc: Doc, parts: Parts) -> Any:
    """The value a path reaches, MISSING where an object lacks it; of a path into an array, the array."""
    value: Any = doc
    for part in parts:
        if not isinstance(value, dict):
            return value if isinstance(value, list) else MISSING
        value = value.get(part, MISSING)
    return value


def _step(container: Any, part: str, path: Parts) -> Any:
    if isinstance(container, dict):
        return container.get(part, MISSING)
    if isinstance(container, list) and part.isdigit():
        return container[int(part)] if int(part) < len(container) else MISSING
    raise CommandError(28, f"cannot create field {part!r} of {'.'.join(path)} in a value that is no object")


def get_one(doc: Doc, parts: Parts) -> Any:
    """The value an update changes (array positions by number only), or MISSING."""
    value: Any = doc
    for part in parts:
        if not isinstance(value, dict | list):
            return MISSING
        if isinstance(value, list) and not part.isdigit():
            return MISSING
        value = _step(value, part, parts)
    return value


def set_one(doc: Doc, parts: Parts, new: Any) -> None:
    """Set a value, creating objects on the way; an array takes positions only, at most one past its end."""
    container: Any = doc
    for part in parts[:-1]:
        inner = _step(container, part, parts)
        if inner is MISSING:
            inner = {}
            _put(container, part, inner, parts)
        container = inner
    _step(container, parts[-1], parts)
    _put(container, parts[-1], new, parts)


def _put(container: Any, part: str, new: Any, path: Parts) -> None:
    if isinstance(container, dict):
        container[part] = new
    elif int(part) < len(container):
        container[int(part)] = new
    elif int(part) == len(container):
        container.append(new)
    else:
        raise CommandError(2, f"{'.'.join(path)} would leave a gap in an array")


def unset_one(doc: Doc, parts: Parts) -> bool:
    """Remove a value; as MongoDB, an array element becomes null. Returns whether it was there."""
    container = get_one(doc, parts[:-1]) if len(parts) > 1 else doc
    if isinstance(container, dict) and parts[-1] in container:
        del container[parts[-1]]
        return True
    if isinstance(container, list) and parts[-1].isdigit() and int(parts[-1]) < len(container):
        container[int(parts[-1])] = None
        return True
    return False
