"""Which boundaries are broken: each fault point of the registry, and those that every step of a saga passes once for each step."""

from dataclasses import dataclass
from enum import StrEnum

from shared.faults import POINTS


class Kind(StrEnum):
    ERROR = "error"
    """An error, before what follows is durable."""
    COMMIT_THEN_ERROR = "commit-then-error"
    """What follows becomes durable, and then its acknowledgement is lost."""
    DELAY = "delay"
    """A stop beyond the lease, in which another process takes over; then it goes on."""
    DEATH = "death"
    """The process ends here."""
    DUPLICATE = "duplicate"
    """The same delivery, request or turn a second time, by another process, while the first is here."""


@dataclass(frozen=True)
class Boundary:
    """Where a story is broken: at `point`, the first time that an act so named, with such a message in hand, comes by."""

    point: str
    story: str
    during: str = ""
    message: str = ""

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.point, self.during.replace(" ", "_"), self.message)))


def _steps(point: str, story: str, *messages: str) -> list[Boundary]:
    return [Boundary(point, story, message=message) for message in messages]


SAGA_STEPS = [
    *_steps(
        "sagas.queued", "traded", "OrderCreated", "AssetReserved", "OrderConfirmed", "TradeSettled", "OrderMatched"
    ),
    *_steps("sagas.queued", "canceled", "OrderCancelRequested", "AssetReleased", "OrderCanceled"),
    *_steps("sagas.queued", "rejected", "AssetReservationFailed", "OrderRejected"),
    *_steps("sagas.queued", "busted", "TradeSettlementFailed"),
    *_steps("sagas.queued", "expired", "OrderExpired"),
    *_steps("asset_service.stored", "placed", "ReserveAsset"),
    *_steps("asset_service.stored", "traded", "SettleTrade"),
    *_steps("asset_service.stored", "canceled", "ReleaseReservation"),
    *_steps("order_service.apply.written", "placed", "ConfirmOrder"),
    *_steps("order_service.apply.written", "traded", "MarkOrderPartiallyMatched", "MarkOrderMatched"),
    *_steps("order_service.apply.written", "canceled", "MarkOrderCanceled"),
    *_steps("order_service.apply.written", "rejected", "RejectOrder"),
    *_steps("order_service.apply.written", "expired", "MarkOrderExpired"),
]
"""Each message that moves a saga, and each command that it sends, at the last write of its step."""

BOUNDARIES = [
    *SAGA_STEPS,
    # -- saga steps that are taken otherwise than above
    Boundary("sagas.queued", "expired", "timer order expiry"),
    Boundary("sagas.queued", "canceled_while_settling", "deliver processor", "OrderCancelRequested"),
    Boundary("sagas.queued", "canceled_while_settling", "deliver processor", "TradeSettled"),
    # -- a transaction, in a request, in a relay's step and in a delivery
    Boundary("unit_of_work.before_flush", "rejected", "request place"),
    Boundary("unit_of_work.before_flush", "canceled", "deliver asset_service"),
    Boundary("unit_of_work.before_commit", "transferred", "request deposit"),
    Boundary("unit_of_work.before_commit", "canceled", "request cancel"),
    Boundary("unit_of_work.before_commit", "traded", "request match"),
    Boundary("unit_of_work.before_commit", "rejected", "deliver processor"),
    Boundary("unit_of_work.committed", "transferred", "request withdraw"),
    Boundary("unit_of_work.committed", "traded", "request match"),
    Boundary("unit_of_work.committed", "rejected", "relay order_service"),
    Boundary("unit_of_work.committed", "rejected", "deliver order_service"),
    # -- relay
    Boundary("relay.before_claim", "rejected", "relay processor"),
    Boundary("outbox.acknowledged", "rejected", "relay order_service"),
    Boundary("outbox.leases_ended", "left_in_hand", "relay processor"),
    Boundary("outbox.marked_sent", "rejected", "relay asset_service"),
    Boundary("relay.claimed", "rejected", "relay processor"),
    Boundary("relay.published", "rejected", "relay order_service"),
    Boundary("relay.refused", "refused_by_the_broker", "relay"),
    Boundary("relay.acknowledgements_taken", "rejected", "relay order_service"),
    # -- inbox and worker
    Boundary("lost.found", "left_in_hand", "start asset_service"),
    Boundary("lost.taken", "left_in_hand", "start asset_service"),
    Boundary("lost.told", "left_in_hand", "start asset_service"),
    Boundary("inbox.waited", "left_in_hand", "deliver asset_service"),
    Boundary("inbox.received", "rejected", "deliver processor"),
    Boundary("inbox.received", "rejected", "deliver auditor"),
    Boundary("inbox.received", "rejected", "deliver notifier"),
    Boundary("inbox.claimed", "rejected", "deliver asset_service"),
    Boundary("inbox.applied", "rejected", "deliver processor"),
    Boundary("inbox.committed", "traded", "deliver asset_service", "SettleTrade"),
    Boundary("inbox.before_acknowledge", "rejected", "deliver order_service"),
    Boundary("inbox.acknowledged", "rejected", "deliver asset_service"),
    Boundary("inbox.marked_split", "split", "deliver asset_service"),
    Boundary("inbox.part_applied", "split_once", "deliver asset_service"),
    Boundary("inbox.part_committed", "split_once", "deliver asset_service"),
    Boundary("inbox.attempt_counted", "split", "deliver asset_service"),
    Boundary("inbox.single_applied", "split", "deliver asset_service"),
    Boundary("inbox.single_committed", "split", "deliver asset_service"),
    Boundary("inbox.park_written", "parked", "deliver asset_service"),
    Boundary("inbox.finished", "split", "deliver asset_service"),
    Boundary("dead_letters.handled", "parked", "request requeue"),
    Boundary("principals.applied", "deactivated", "deliver order_service"),
    # -- loops
    Boundary("timer.due", "expired", "timer order expiry"),
    Boundary("timer.done", "read", "timer auditor intake"),
    Boundary("retention.deleted", "forgotten", "timer customer_service retention"),
    # -- requests
    Boundary("idempotency.marked", "transferred", "request deposit"),
    Boundary("idempotency.committed", "transferred", "request withdraw"),
    Boundary("idempotency.answered", "traded", "request match"),
    # -- the services' own steps
    Boundary("order_service.place.decided", "rejected", "request place"),
    Boundary("order_service.place.written", "rejected", "request place"),
    Boundary("group_commit.committed", "rejected", "request place"),
    Boundary("order_service.apply.loaded", "rejected", "deliver order_service"),
    Boundary("order_service.apply.written", "canceled", "request cancel"),
    Boundary("asset_service.locked", "traded", message="SettleTrade"),
    Boundary("asset_service.folded", "canceled", message="ReleaseReservation"),
    Boundary("transfers.decided", "transferred", "request deposit"),
    Boundary("transfers.moved", "transferred", "request deposit"),
    Boundary("transfers.posted", "transferred", "request deposit"),
    Boundary("transfers.decided", "transferred", "request withdraw"),
    Boundary("transfers.moved", "transferred", "request withdraw"),
    Boundary("transfers.posted", "transferred", "request withdraw"),
    Boundary("sagas.loaded", "traded", message="TradeSettled"),
    Boundary("sagas.folded", "traded", message="TradeSettled"),
    Boundary("sagas.written", "traded", message="TradeSettled"),
    Boundary("matching.decided", "traded", "request match"),
    Boundary("matching.written", "traded", "request match"),
    Boundary("expiry.locked", "expired", "timer order expiry"),
    Boundary("deadlines.found", "slow_answer", "timer saga deadlines"),
    Boundary("deadlines.resent", "slow_answer", "timer saga deadlines"),
    Boundary("customers.locked", "deactivated", "request deactivate"),
    Boundary("customers.said", "deactivated", "request deactivate"),
    # -- documents
    Boundary("mongo_inbox.handled", "rejected", "deliver auditor"),
    Boundary("mongo_inbox.handled", "rejected", "deliver notifier"),
    Boundary("mongo_inbox.before_done", "rejected", "deliver auditor"),
    Boundary("mongo_inbox.before_done", "rejected", "deliver notifier"),
    Boundary("mongo_inbox.done", "rejected", "deliver auditor"),
    Boundary("mongo_inbox.done", "rejected", "deliver notifier"),
    Boundary("notifier.contacts_applied", "rejected", "deliver notifier"),
    Boundary("notifier.inserted", "rejected", "deliver notifier"),
    Boundary("notifier.due", "mailed", "timer notifier e-mail"),
    Boundary("notifier.claimed", "mailed", "timer notifier e-mail"),
    Boundary("notifier.before_send", "mailed", "timer notifier e-mail"),
    Boundary("notifier.sent", "mailed", "timer notifier e-mail"),
    Boundary("notifier.recorded", "mailed", "timer notifier e-mail"),
    Boundary("auditor.acquired", "rejected", "deliver auditor"),
    Boundary("auditor.chained", "rejected", "deliver auditor"),
    Boundary("auditor.before_head", "rejected", "deliver auditor"),
    Boundary("auditor.released", "rejected", "deliver auditor"),
    Boundary("auditor.intake_chained", "read", "timer auditor intake"),
    Boundary("auditor.intake_dropped", "read", "timer auditor intake"),
    Boundary("telemetry.due", "measured", "timer auditor telemetry"),
    Boundary("telemetry.inserted", "measured", "timer auditor telemetry"),
    Boundary("telemetry.positioned", "measured", "timer auditor telemetry"),
]
CELLS = [(boundary, kind) for boundary in BOUNDARIES for kind in Kind]


def durable(boundary: Boundary) -> str:
    """The point at which what follows the boundary is durable, for this boundary's store."""
    point = POINTS[boundary.point].durable
    if boundary.point == "inbox.received" and boundary.during in ("deliver auditor", "deliver notifier"):
        return "mongo_inbox.done"
    return point
