"""The crash matrix: every step boundary, broken in every way, and the system heals by itself.

A cell fails when its boundary was not reached, when the fault had no effect, when work did not go on by itself, or when the story
ends otherwise than undisturbed. With BROKAGE_FAULTS_MATRIX=all every cell runs, and a process that dies is a real one, killed by
SIGKILL; otherwise a seeded part of the cells runs, and a death is an exception that nobody catches.
"""

import os
import random
from collections.abc import Iterator

import pytest

from notifier import documents
from shared.ids import new_id
from shared.mongo import Document, MongoDatabase
from tests.faults.matrix_cell import Matrix, Trap
from tests.faults.matrix_points import BOUNDARIES, CELLS, Boundary, Kind
from tests.faults.matrix_stories import documents as stored

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


class TestTheMatrixItself:
    """A cell that proves nothing must fail."""

    def test_a_boundary_that_nobody_reaches_fails(self, matrix: Matrix) -> None:
        with pytest.raises(AssertionError, match="does not come by"):
            matrix.check(Boundary("inbox.park_written", "rejected"), Kind.ERROR)

    def test_a_boundary_that_is_passed_with_other_messages_only_fails(self, matrix: Matrix) -> None:
        with pytest.raises(AssertionError, match="does not come by"):
            matrix.check(Boundary("asset_service.stored", "rejected", message="SettleTrade"), Kind.ERROR)

    @pytest.mark.parametrize(
        "boundary",
        [
            Boundary("asset_service.stored", "rejected", message="ReserveAsset"),
            # This story has failures of its own.
            Boundary("inbox.single_committed", "split", "deliver asset_service"),
        ],
        ids=lambda boundary: boundary.name,
    )
    def test_a_fault_without_effect_fails(
        self, matrix: Matrix, monkeypatch: pytest.MonkeyPatch, boundary: Boundary
    ) -> None:
        def nothing(trap: Trap, act: object) -> None:
            trap.struck = True

        monkeypatch.setattr(Trap, "_spring", nothing)
        with pytest.raises(AssertionError, match="had no effect"):
            matrix.check(boundary, Kind.ERROR)

    @pytest.mark.parametrize("kind", [Kind.ERROR, Kind.COMMIT_THEN_ERROR])
    def test_a_fault_that_only_the_log_tells_of_is_seen(self, matrix: Matrix, kind: Kind) -> None:
        """The worker swallows what it cannot acknowledge, and nothing follows this point."""
        matrix.check(Boundary("inbox.acknowledged", "rejected", "deliver asset_service"), kind)

    def test_an_effect_that_is_doubled_fails(self, matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
        """As if a notification had no key."""
        insert = documents.insert_notifications

        def twice(database: MongoDatabase, found: list[Document]) -> None:
            insert(database, found)
            insert(
                database,
                [{**each, "_id": new_id(), "notification_id": new_id(), "template": "again"} for each in found],
            )

        boundary = Boundary("notifier.inserted", "rejected", "deliver notifier")
        matrix.check(boundary, Kind.DUPLICATE)
        monkeypatch.setattr(documents, "insert_notifications", twice)
        with pytest.raises(AssertionError):
            matrix.check(boundary, Kind.DUPLICATE)
        with stored(matrix.system, "notifier") as notifier:
            assert notifier[documents.NOTIFICATIONS].delete_many({"template": "again"}).deleted_count > 0
