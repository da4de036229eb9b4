"""Accepting orders, many in one transaction. What becomes of each is data: one that repeats or contradicts an earlier
one does not disturb the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from order_service import repository
from order_service.errors import ClientOrderIdReused
from order_service.repository import Row
from order_service.service.events import common_fields
from shared.contracts.orders import OrderCreated
from shared.db import Connection, Context, UnitOfWork
from shared.errors import BrokageError
from shared.faults import fault
from shared.idempotency import IdempotencyKeyReused, IdempotentCall

ClientId = tuple[int, int, str]
"""customer_id, placed_by, client_order_id."""
Key = tuple[str, str, str, str]

_PLACED = 201
_REPEATED = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """What makes a request the repeat of an earlier one. `digest` is over the order's terms, however they are written;
    the key's own digest, in `call`, is over the body."""

    order_id: str
    call: IdempotentCall | None
    client_id: ClientId | None
    digest: str

    @property
    def key(self) -> Key | None:
        scope = self.call.scope if self.call else None
        return (scope.principal, scope.method, scope.route, scope.key) if scope else None


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A valid order that is not stored yet. `row` holds the columns that its acceptance decides; `context` is who places
    it, because one transaction serves many callers."""

    row: Row
    tier_priority: int
    claim: Claim
    context: Context


@dataclass(frozen=True, slots=True)
class Stored:
    """An order as it is now, and the status of the first answer. `replayed`: the request's key was seen before."""

    row: Row
    status_code: int
    replayed: bool = False


Outcome = Stored | BrokageError


def place_orders(uow: UnitOfWork, new: Sequence[NewOrder]) -> list[Outcome]:
    """Store the orders that are new, with their history, client ids, keys and OrderCreated; the outcome of each, in order.

    Raises:
        Conflict: somebody else took a client id or a key meanwhile; the repeated transaction sees it.
    """
    taken = _look_up(uow.connection, [order.claim for order in new])
    verdicts = [taken.judge(order.claim) for order in new]
    fresh = {order.claim.order_id: order for order in new if order.claim.order_id in taken.fresh}
    fault("order_service.place.decided")
    rows = _insert(uow, list(fresh.values()), taken)
    named = {verdict.order_id for verdict in verdicts if isinstance(verdict, _Verdict)}
    rows.update(_find(uow.connection, named - rows.keys()))
    return [_outcome(verdict, rows) for verdict in verdicts]


def find_first(connection: Connection, claim: Claim) -> Outcome | None:
    """What an earlier identical request was answered, if there was one. Writes nothing."""
    taken = _look_up(connection, [claim])
    verdict = taken.judge(claim)
    if claim.order_id in taken.fresh:
        return None
    rows = _find(connection, {verdict.order_id} if isinstance(verdict, _Verdict) else set())
    return _outcome(verdict, rows)


@dataclass(frozen=True, slots=True)
class _Verdict:
    order_id: str
    status_code: int
    replayed: bool = False


class _Taken:
    """Client ids and keys as they were found, and as the requests of this batch take them one after the other."""

    def __init__(self, client_ids: Iterable[Row], keys: Iterable[Row]) -> None:
        self._client_ids: dict[ClientId, tuple[str, str]] = {
            (row["customer_id"], row["placed_by"], row["client_order_id"]): (row["order_id"], row["request_digest"])
            for row in client_ids
        }
        self._keys: dict[Key, tuple[str, _Verdict]] = {
            (row["principal"], row["method"], row["route"], row["key"]): (
                row["request_digest"],
                _Verdict(row["resource_id"], row["status_code"], replayed=True),
            )
            for row in keys
        }
        self.fresh: set[str] = set()
        self.new_client_ids: list[Row] = []
        self.new_keys: list[Row] = []

    def judge(self, claim: Claim) -> _Verdict | BrokageError:
        """The verdict on a request, given those before it."""
        first = self._keys.get(claim.key) if claim.key else None
        if first is not None and claim.call is not None:
            digest, verdict = first
            if verdict.order_id == claim.order_id:
                return _Verdict(claim.order_id, _PLACED)  # our own: the commit went through, only its answer was lost
            return verdict if digest == claim.call.digest else IdempotencyKeyReused()
        known = self._client_ids.get(claim.client_id) if claim.client_id else None
        if known is None:
            return self._place(claim)
        order_id, digest = known
        if order_id == claim.order_id:
            return _Verdict(order_id, _PLACED)
        if digest != claim.digest:
            return ClientOrderIdReused()
        return self._keep(claim, _Verdict(order_id, _REPEATED))

    def _place(self, claim: Claim) -> _Verdict:
        self.fresh.add(claim.order_id)
        if claim.client_id is not None:
            customer_id, placed_by, client_order_id = claim.client_id
            self._client_ids[claim.client_id] = (claim.order_id, claim.digest)
            self.new_client_ids.append(
                {
                    "customer_id": customer_id,
                    "placed_by": placed_by,
                    "client_order_id": client_order_id,
                    "order_id": claim.order_id,
                    "request_digest": claim.digest,
                }
            )
        return self._keep(claim, _Verdict(claim.order_id, _PLACED))

    def _keep(self, claim: Claim, verdict: _Verdict) -> _Verdict:
        if claim.call is not None and claim.key is not None:
            replay = _Verdict(verdict.order_id, verdict.status_code, replayed=True)
            self._keys[claim.key] = (claim.call.digest, replay)
            self.new_keys.append(
                {
                    **_key_columns(claim.key),
                    "request_digest": claim.call.digest,
                    "status_code": verdict.status_code,
                    "resource_id": verdict.order_id,
                }
            )
        return verdict


def _look_up(connection: Connection, claims: Sequence[Claim]) -> _Taken:
    client_ids = [
        {"customer_id": customer_id, "placed_by": placed_by, "client_order_id": client_order_id}
        for customer_id, placed_by, client_order_id in {claim.client_id for claim in claims if claim.client_id}
    ]
    keys = [_key_columns(key) for key in {claim.key for claim in claims if claim.key}]
    return _Taken(repository.find_client_ids(connection, client_ids), repository.find_keys(connection, keys))


def _key_columns(key: Key) -> Row:
    return dict(zip(("principal", "method", "route", "key"), key, strict=True))


def _insert(uow: UnitOfWork, fresh: Sequence[NewOrder], taken: _Taken) -> dict[str, Row]:
    """Write what is new; the new rows by id."""
    if not fresh and not taken.new_keys:
        return {}
    orders = [{**order.row, "event_id": _record(uow, order)} for order in fresh]
    # Ids and keys in one order in all processes, so that two batches cannot deadlock.
    client_ids = sorted(taken.new_client_ids, key=lambda r: (r["customer_id"], r["placed_by"], r["client_order_id"]))
    keys = sorted(taken.new_keys, key=lambda r: (r["principal"], r["method"], r["route"], r["key"]))
    at = repository.insert_orders(uow.connection, orders=orders, client_ids=client_ids, keys=keys)
    fault("order_service.place.written")
    return {order.claim.order_id: _accepted(order.row, at) for order in fresh}


def _record(uow: UnitOfWork, order: NewOrder) -> str:
    row = order.row
    event = OrderCreated(
        **common_fields({**row, "filled_size": Decimal(0)}),
        order_type=row["order_type"],
        time_in_force=row["time_in_force"],
        placed_by=row["placed_by"],
        client_order_id=row["client_order_id"],
        tier=row["tier"],
        tier_priority=order.tier_priority,
        beneficial_owner_id=row["beneficial_owner_id"],
        fee_rate=row["fee_rate"],
        fee_minimum=row["fee_minimum"],
        expires_at=row["expires_at"],
        after={"status": row["status"]},
    )
    # Each order has its own caller and correlation; the transaction is shared.
    uow.context = order.context
    message = uow.record(event, aggregate_id=row["id"], aggregate_version=1, customer_id=row["customer_id"])
    return message.event_id


def _accepted(row: Row, at: datetime) -> Row:
    """A new order as the database now holds it."""
    unset: dict[str, Any] = dict.fromkeys(("final_status", "rejection_reason", "closed_at"))
    amounts = dict.fromkeys(("filled_size", "filled_notional", "fee_amount"), Decimal(0))
    return {**row, **unset, **amounts, "version": 1, "created_at": at, "updated_at": at}


def _find(connection: Connection, order_ids: set[str]) -> dict[str, Row]:
    return repository.find_orders(connection, order_ids) if order_ids else {}


def _outcome(verdict: "_Verdict | BrokageError", rows: dict[str, Row]) -> Outcome:
    if isinstance(verdict, BrokageError):
        return verdict
    if verdict.order_id not in rows:
        return ClientOrderIdReused()  # its month of the archive was deleted; a second order it must not become
    return Stored(rows[verdict.order_id], verdict.status_code, verdict.replayed)
