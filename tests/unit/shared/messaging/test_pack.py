"""Which of what was claimed shares a message."""

import msgspec

from shared.messaging.delivery import Batch
from shared.messaging.outbox import Claim, pack

EVENTS_MAX = 10


def claims_of(*claimed: tuple[str, int, int, int]) -> list[tuple[str, list[int], int]]:
    """Reader, lanes and events of each message, from reader, lane, events and deliveries of each batch."""
    lanes: dict[tuple[str, int], list[Batch]] = {}
    events: dict[str, int] = {}
    for number, (reader, lane, size, deliveries) in enumerate(claimed):
        batch = Batch(f"batch-{number}", deliveries, msgspec.Raw(b"[]"))
        lanes.setdefault((reader, lane), []).append(batch)
        events[batch.id] = size
    claims = pack(lanes, events, events_max=EVENTS_MAX)
    assert sorted(_ids(claims)) == sorted(events)
    return [(claim.destination, claim.lanes, claim.events) for claim in claims]


def _ids(claims: list[Claim]) -> list[str]:
    return [batch.id for claim in claims for batch in claim.batches]


def test_lanes_of_one_reader_share_a_message() -> None:
    assert claims_of(("processor", 0, 3, 1), ("processor", 0, 1, 1), ("processor", 1, 6, 1)) == [
        ("processor", [0, 1], 10)
    ]


def test_each_reader_has_his_own() -> None:
    assert claims_of(("asset_service", 0, 1, 1), ("processor", 0, 1, 1), ("processor", 1, 1, 1)) == [
        ("asset_service", [0], 1),
        ("processor", [0, 1], 2),
    ]


def test_what_is_too_large_for_one_message_is_several() -> None:
    assert claims_of(("processor", 0, 8, 1), ("processor", 1, 3, 1), ("processor", 2, 7, 1)) == [
        ("processor", [0], 8),
        ("processor", [1, 2], 10),
    ]


def test_what_is_sent_again_shares_with_no_other_lane() -> None:
    assert claims_of(
        ("processor", 0, 1, 1), ("processor", 1, 1, 2), ("processor", 2, 1, 1), ("processor", 3, 1, 3)
    ) == [
        ("processor", [0, 2], 2),
        ("processor", [1], 1),
        ("processor", [3], 1),
    ]


def test_a_lane_of_which_a_part_is_sent_again_is_one_message() -> None:
    assert claims_of(("processor", 0, 1, 2), ("processor", 0, 1, 1), ("processor", 1, 1, 1)) == [
        ("processor", [0], 2),
        ("processor", [1], 1),
    ]
