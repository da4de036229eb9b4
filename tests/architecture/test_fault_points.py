"""Every step boundary that can be broken is in the registry, and the registry names nothing else."""

import ast
from collections import Counter
from pathlib import Path

from shared.faults import POINTS

ROOT = Path(__file__).parents[2]
FOLDERS = ("asset_service", "auditor", "customer_service", "infra", "notifier", "order_service", "processor", "shared")


def called() -> Counter[str]:
    """The names in `fault("...")` calls of the product. A name that is put together at run time is a failure here."""
    names: Counter[str] = Counter()
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault":
                [name] = node.args
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}"
                names[name.value] += 1
    return names


def test_every_fault_point_of_the_code_is_in_the_registry_and_stands_in_one_place() -> None:
    """A point in two places would be tested in one of them."""
    assert called() == Counter(POINTS.keys())


def test_what_is_durable_next_is_a_point_as_well() -> None:
    assert {point.durable for point in POINTS.values()} <= POINTS.keys()
