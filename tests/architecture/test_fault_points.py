"""Every step boundary that can be broken is in the registry, and the registry names nothing else."""

import ast
from collections import Counter
from itertools import product
from pathlib import Path

from processor.service.advance import RECEIVERS
from shared.contracts.message import contracts
from shared.faults import POINTS
from tests.faults.matrix_points import BOUNDARIES, CELLS, SAGA_STEPS, Kind

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


def test_every_point_is_a_boundary_of_the_crash_matrix_in_every_way_it_can_break() -> None:
    """What is not in the matrix is not proven; `make faults-matrix` runs all of it."""
    assert {boundary.point for boundary in BOUNDARIES} == POINTS.keys()
    assert Counter(CELLS) == Counter(product(BOUNDARIES, Kind))
    assert len({boundary.name for boundary in BOUNDARIES}) == len(BOUNDARIES) >= 40


def test_every_message_that_moves_an_order_or_a_trade_is_a_boundary_of_its_own() -> None:
    """The registry names lines of code; a saga comes by the same lines with each of its messages."""
    written = {"asset_service": "asset_service.stored", "order_service": "order_service.apply.written"}
    commands = {(written[receiver], command) for command, receiver in RECEIVERS.items()}
    answers = {
        ("sagas.queued", contract.name)
        for contract in contracts().values()
        if "processor" in contract.readers and contract.aggregate_type in ("order", "trade")
    }
    assert {(boundary.point, boundary.message) for boundary in SAGA_STEPS} == commands | answers
