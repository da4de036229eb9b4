"""The crash matrix: every step boundary, broken in every way, and the system heals by itself.

A cell fails when its boundary was not reached, when the fault had no effect, when work did not go on by itself, or when the story
ends otherwise than undisturbed. With BROKAGE_FAULTS_MATRIX=all every cell runs, and a process that dies is a real one, killed by
SIGKILL; otherwise a seeded part of the cells runs, and a death is an exception that nobody catches.
"""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults.matrix_cell import Matrix
from tests.faults.matrix_points import BOUNDARIES, CELLS, Boundary, Kind

ALL = os.environ.get("BROKAGE_FAULTS_MATRIX") == "all"
SEED = int(os.environ.get("BROKAGE_FAULTS_SEED", "1"))
PART = len(CELLS) // 10


def _chosen() -> list[tuple[Boundary, Kind]]:
    """A tenth of the cells: as many boundaries, and the kinds in turns."""
    boundaries = random.Random(SEED).sample(BOUNDARIES, PART)
    return [(boundary, list(Kind)[number % len(Kind)]) for number, boundary in enumerate(boundaries)]


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    matrix = Matrix(real_deaths=ALL)
    try:
        matrix.open()
        yield matrix
    finally:
        matrix.close()


def _name(cell: tuple[Boundary, Kind]) -> str:
    return f"{cell[0].name}-{cell[1]}"


@pytest.mark.parametrize("cell", CELLS if ALL else _chosen(), ids=_name)
def test_cell(matrix: Matrix, cell: tuple[Boundary, Kind]) -> None:
    matrix.check(*cell)
