"""Which route a request means, found once: the edge needs it before the application runs, to know whose rules apply."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import APIRoute

from shared.auth.permissions import PUBLIC
from shared.http.route import EdgeRoute
from shared.http.state import Matched

_NOTHING = "(none)"
_CONTROL = re.compile("[\x00-\x1f\x7f]")


@dataclass(slots=True)
class _Path:
    """All the routes of one path template."""

    template: str
    pattern: re.Pattern[str]
    by_method: dict[str, tuple[str | None, APIRoute]] = field(default_factory=dict)

    @property
    def public(self) -> bool:
        return all(getattr(route, "grants", PUBLIC) is PUBLIC for _, route in self.by_method.values())


class RouteTable:
    """Static paths by dictionary, the others by their first two segments and then by pattern, in order of
    registration."""

    def __init__(self, routes: Iterable[tuple[str | None, APIRoute]]) -> None:
        self._static: dict[str, _Path] = {}
        self._dynamic: dict[str, list[_Path]] = {}
        for service, route in routes:
            path = self._path_for(route)
            for method in sorted(route.methods or ()):
                if method in path.by_method:
                    raise ValueError(f"{method} {route.path} is registered twice")
                path.by_method[method] = (service, route)

    def match(self, method: str, path: str, raw_path: bytes) -> Matched:
        # An encoded slash would make two segments of one; a control character is in no path of ours.
        if _CONTROL.search(path) or b"%2f" in raw_path.lower():
            return Matched(_NOTHING)
        known = self._static.get(path)
        params: dict[str, str] = {}
        if known is None:
            for candidate in self._dynamic.get(_head(path), ()):
                found = candidate.pattern.match(path)
                if found:
                    known, params = candidate, found.groupdict()
                    break
        if known is None:
            return Matched(_NOTHING)
        entry = known.by_method.get(method)
        if entry is None:
            service = next(iter(known.by_method.values()))[0]
            return Matched(known.template, service, allowed=tuple(sorted(known.by_method)), public=known.public)
        service, route = entry
        grants: Any = route.grants if isinstance(route, EdgeRoute) else PUBLIC
        return Matched(known.template, service, route, params, public=grants is PUBLIC)

    def _path_for(self, route: APIRoute) -> _Path:
        template = route.path_format
        if "{" not in template:
            return self._static.setdefault(template, _Path(template, route.path_regex))
        group = self._dynamic.setdefault(_head(template), [])
        for path in group:
            if path.template == template:
                return path
        group.append(_Path(template, route.path_regex))
        return group[-1]


def _head(path: str) -> str:
    """The first two segments: `/api/orders/7/events` -> `/api/orders`. No template of ours has a parameter among
    them."""
    return "/".join(path.split("/", 3)[:3]) if not path.startswith("/problems/") else "/problems"
