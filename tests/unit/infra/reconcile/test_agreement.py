"""The table of what goes together, and the paths a history can take."""

import pytest

from asset_service.states import ReservationStatus
from infra.reconcile.agreement import ALLOWED, NONE, STEPS, broken_path, disagreement
from order_service.states import FINAL, OrderStatus
from processor.sagas.order_saga import ENDED, OrderSagaState

MATCHED_PATH = ["CREATED", "PENDING_RESERVATION", "ASSET_RESERVED", "ORDER_CONFIRMED", "MATCHED"]


def numbered(*statuses: str) -> list[tuple[int, str]]:
    return list(enumerate(statuses, 1))


class TestAllowedTriples:
    def test_every_word_in_the_table_is_a_state(self) -> None:
        orders, reservations, sagas = ({triple[place] for triple in ALLOWED} for place in range(3))
        assert orders == set(OrderStatus) - {OrderStatus.ARCHIVED}
        assert reservations == {*ReservationStatus, NONE}
        assert sagas == set(OrderSagaState) - {OrderSagaState.NEEDS_HUMAN}

    def test_an_ended_saga_goes_with_one_final_order_that_blocks_nothing(self) -> None:
        for state in ENDED:
            orders = {order for order, _, saga in ALLOWED if saga == state}
            assert len(orders) == 1
            assert orders <= set(FINAL)
            assert not {triple for triple in ALLOWED if triple[2] == state and triple[1] in (NONE, "ACTIVE")}

    def test_a_final_order_never_goes_with_an_active_reservation(self) -> None:
        assert not {triple for triple in ALLOWED if triple[0] in FINAL and triple[1] == "ACTIVE"}

    def test_an_order_on_the_book_is_reserved(self) -> None:
        assert {triple[1] for triple in ALLOWED if triple[2] in ("RESTING", "CLOSING", "LAPSING")} == {"ACTIVE"}

    @pytest.mark.parametrize(
        ("order", "reservation", "saga"),
        [
            ("PENDING_RESERVATION", None, "RESERVING"),
            ("PENDING_RESERVATION", "ACTIVE", "RESERVING"),
            ("PENDING_RESERVATION", "RELEASED", "REJECTING"),
            ("ORDER_CONFIRMED", "ACTIVE", "RESTING"),
            ("PARTIALLY_MATCHED", "ACTIVE", "RESTING"),
            ("PENDING_CANCEL", "ACTIVE", "CLOSING"),
            ("MATCHED", "SETTLED", "COMPLETED"),
            ("ORDER_CONFIRMED", "RELEASED", "NEEDS_HUMAN"),
        ],
    )
    def test_goes_together(self, order: str, reservation: str | None, saga: str) -> None:
        assert disagreement(order, reservation, saga) is None

    @pytest.mark.parametrize(
        ("order", "reservation", "saga"),
        [
            ("PENDING_RESERVATION", None, None),
            ("PENDING_CANCEL", "ACTIVE", "RESTING"),
            ("MATCHED", "ACTIVE", "COMPLETED"),
            ("CANCELED", "SETTLED", "CANCELED"),
            ("ORDER_CONFIRMED", None, "RESTING"),
            ("REJECTED", "RELEASED", "CANCELED"),
        ],
    )
    def test_does_not_go_together(self, order: str, reservation: str | None, saga: str | None) -> None:
        assert disagreement(order, reservation, saga) is not None

    def test_a_saga_of_no_order_is_named(self) -> None:
        found = disagreement(None, "ACTIVE", "NEEDS_HUMAN")
        assert found == "it does not exist, but has a reservation ACTIVE and a saga NEEDS_HUMAN"


class TestHistories:
    def test_a_whole_life_is_a_path(self) -> None:
        assert broken_path("MATCHED", 4, numbered(*MATCHED_PATH)) is None

    def test_a_cancel_that_lost_against_the_last_fill_is_a_path(self) -> None:
        path = [*MATCHED_PATH[:-1], "PARTIALLY_MATCHED", "PENDING_CANCEL", "PENDING_CANCEL", "MATCHED", "ARCHIVED"]
        assert broken_path("ARCHIVED", 8, numbered(*path)) is None

    @pytest.mark.parametrize(
        ("status", "version", "history", "says"),
        [
            ("MATCHED", 4, [(1, "CREATED"), (3, "PENDING_RESERVATION")], "has gaps"),
            ("MATCHED", 5, numbered(*MATCHED_PATH), "5 rows at version 5"),
            ("MATCHED", 3, numbered(*MATCHED_PATH[1:]), "begins with PENDING_RESERVATION"),
            ("CANCELED", 4, numbered(*MATCHED_PATH), "ends with MATCHED"),
            (
                "MATCHED",
                2,
                numbered("CREATED", "PENDING_RESERVATION", "MATCHED"),
                "from PENDING_RESERVATION to MATCHED",
            ),
            ("MATCHED", 5, numbered(*MATCHED_PATH, "MATCHED"), "from MATCHED to MATCHED"),
        ],
    )
    def test_no_path(self, status: str, version: int, history: list[tuple[int, str]], says: str) -> None:
        assert says in str(broken_path(status, version, history))

    def test_nothing_leaves_a_final_state_but_the_archive(self) -> None:
        assert {after for before, after in STEPS if before in FINAL} == {"ARCHIVED"}
