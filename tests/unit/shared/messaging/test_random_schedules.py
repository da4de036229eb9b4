"""The delivery protocol over random schedules of everything that can go wrong, and without each of its rules in turn."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
import structlog
from lossy_world import MemoryInboxStore, MemoryTransaction, OneWorker, World

from shared.messaging import outbox
from shared.messaging.delivery import Acknowledgement, Batch, Delivery
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import Candidate

SCHEDULES = 400
FEW = 60


@pytest.fixture(autouse=True, scope="module")
def silence() -> Iterator[None]:
    """Tens of thousands of warnings, all of them expected."""
    configuration = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("critical"), cache_logger_on_first_use=False
    )
    yield
    structlog.configure(**configuration)


def first_violation(world: type[World] = World, **parts: Any) -> str | None:
    for seed in range(FEW):
        try:
            violations = world(seed, **parts).run()
        except AssertionError as error:
            violations = [str(error)]
        if violations:
            return f"seed {seed}: {violations}"
    return None


class TestTheProtocol:
    @pytest.mark.parametrize("part", range(4))
    def test_every_schedule_ends_with_each_effect_once_in_order_and_the_bad_parked(self, part: int) -> None:
        for seed in range(part, SCHEDULES, 4):
            violations = World(seed).run()
            assert not violations, f"seed {seed}: {violations}"


class TestAKiller:
    """One event ends its process, whatever else that has in hand."""

    @pytest.mark.parametrize("part", range(4))
    def test_is_parked_after_four_deaths_and_all_else_is_done_meanwhile(self, part: int) -> None:
        for seed in range(part, SCHEDULES // 2, 4):
            violations = OneWorker(seed).run()
            assert not violations, f"seed {seed}: {violations}"


class OwnsEverything(MemoryTransaction):
    def claim(self, ids: Sequence[str], *, single: bool) -> set[str]:
        super().claim(ids, single=single)
        return set(ids)


class WithoutClaims(MemoryInboxStore):
    def begin(self) -> MemoryTransaction:
        return OwnsEverything(self, self.world.now)


class NeverMarksSplit(MemoryTransaction):
    def mark_split(self, ids: Sequence[str]) -> None:
        pass


class WithoutSplitMarkers(MemoryInboxStore):
    def begin(self) -> MemoryTransaction:
        return NeverMarksSplit(self, self.world.now)


class DoneAfterTheFirstPart(Inbox):
    _batch: Batch

    def _split(self, batch: Batch, *, halves: bool) -> Acknowledgement:
        self._batch = batch
        return super()._split(batch, halves=halves)

    def _part(self, raws: Sequence[Any], *, halves: bool) -> None:
        super()._part(raws, halves=halves)
        batch = self._batch
        self._store.transaction(lambda tx: tx.finish(batch.id))


class TestTheProtocolWithoutOneOfItsRules:
    def test_without_the_claim_an_effect_is_doubled(self) -> None:
        assert first_violation(store=WithoutClaims) is not None

    def test_with_several_messages_outstanding_in_a_lane_the_order_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def choose(candidates: Sequence[Candidate], *, now: datetime, **options: Any) -> tuple[list[Candidate], bool]:
            return [c for c in candidates if c.lease_until is None or c.lease_until <= now], False

        monkeypatch.setattr(outbox, "choose", choose)
        assert first_violation() is not None

    def test_without_the_split_marker_an_effect_is_doubled(self) -> None:
        assert first_violation(store=WithoutSplitMarkers) is not None

    def test_done_after_the_first_part_loses_the_others(self) -> None:
        assert first_violation(inbox=DoneAfterTheFirstPart) is not None


class DoesNotWait(Inbox):
    def let_others_go_first(self, delivery: Delivery) -> None:
        pass


class TriesWholeTwice(Inbox):
    def _whole_max(self, batches: Sequence[Batch]) -> int:
        return 2


class TestAKillerWithoutOneOfTheRules:
    def test_without_the_pause_others_begin_again_and_again(self) -> None:
        assert "was delivered" in str(first_violation(OneWorker, inbox=DoesNotWait))

    def test_tried_whole_twice_it_kills_once_more(self) -> None:
        assert "5 deaths" in str(first_violation(OneWorker, inbox=TriesWholeTwice))

    def test_when_nobody_tells_what_was_lost_every_lease_is_waited_for(self) -> None:
        assert "s from the first death to the last" in str(first_violation(OneWorker, tells=False))
