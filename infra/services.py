"""The services by name. None is imported before it is asked for: any of them runs with the other packages deleted."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from infra.runtime.failures import CannotStart

SERVICES = ("customer_service", "order_service", "asset_service", "processor", "notifier", "auditor")
ALL = "all"


def choose(names: Sequence[str], module: str) -> list[str]:
    """The services meant by `names`; `all` are those that are here and have `module` (`app`, `worker` or `relay`).

    Raises:
        CannotStart: a name is no service's, or its package is not here.
    """
    if ALL in names:
        return [name for name in SERVICES if _has(name, module)]
    for name in names:
        if name not in SERVICES:
            raise CannotStart(f"there is no service named {name}; the services are {', '.join(SERVICES)}")
        if not _has(name, module):
            raise CannotStart(f"the package {name} has no {module} here")
    return list(dict.fromkeys(names))


def _has(service: str, module: str) -> bool:
    try:
        return importlib.util.find_spec(f"{service}.{module}") is not None
    except ModuleNotFoundError:
        return False


def load(service: str, module: str) -> Any:
    """Import `<service>.<module>`."""
    return importlib.import_module(f"{service}.{module}")
