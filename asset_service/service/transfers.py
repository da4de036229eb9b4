"""Deposits and withdrawals: one transfer per customer, kind and reference, posted against the world outside."""

from dataclasses import dataclass
from decimal import Decimal

from asset_service import ledger, repository
from asset_service.book import BALANCE_LIMIT, plain
from asset_service.errors import (
    InsufficientFunds,
    ReferenceReused,
    balance_too_large,
    too_many_decimals,
    unknown_asset,
)
from asset_service.ledger import Leg, customer_account, system_account
from asset_service.repository import Row
from asset_service.states import AccountClass, TransferKind
from shared import idempotency, money
from shared.auth.second_factor import Proof, SecondFactorRefused, SecondFactorRequired
from shared.contracts.assets import TRANSFER, FundsDeposited, FundsWithdrawn, LowBalance
from shared.db import Conflict, UnitOfWork
from shared.faults import fault
from shared.idempotency import IdempotentCall, Replay
from shared.ids import new_id


def deposit(
    uow: UnitOfWork,
    *,
    customer_id: int,
    asset_name: str,
    amount: Decimal,
    reference: str,
    call: IdempotentCall | None = None,
) -> Replay:
    """Add to what the customer has; the transfer's id is in `resource_id`. Also for seeds: a repeat changes nothing.

    Args:
        amount: above 0, at the asset's scale.
        reference: unique per customer among deposits, for ever; the same transfer again is answered 200 with the first.
        call: the request's Idempotency-Key, when it came with one.

    Raises:
        ValidationFailed: no such asset, too many decimals, or a balance beyond what can be held; nothing is written.
        ReferenceReused: for another asset or amount.
    """
    return _transfer(uow, TransferKind.DEPOSIT, customer_id, asset_name, amount, reference, call)


def withdraw(
    uow: UnitOfWork,
    *,
    customer_id: int,
    asset_name: str,
    amount: Decimal,
    reference: str,
    call: IdempotentCall | None = None,
    free: Decimal | None = None,
    proof: Proof | None = None,
) -> Replay:
    """Take from what the customer may use; otherwise as `deposit`.

    Args:
        free: what may be withdrawn of the asset in 24 hours without a second factor; None for any amount.
        proof: of the caller's second factor, verified; taken only when it is needed.

    Raises:
        SecondFactorRequired: it is more, and there is no proof.
        SecondFactorRefused: the proof was taken before.
        InsufficientFunds: he may not use as much; nothing is written.
        ValidationFailed, ReferenceReused: as `deposit`.
    """
    gate = _Gate(free, proof)
    return _transfer(uow, TransferKind.WITHDRAWAL, customer_id, asset_name, amount, reference, call, gate)


@dataclass(frozen=True, slots=True)
class _Gate:
    """Where a second factor is asked for. A repeat of what was done before does not come here."""

    free: Decimal | None = None
    proof: Proof | None = None

    def pass_with(self, uow: UnitOfWork, customer_id: int, asset_name: str, amount: Decimal) -> str | None:
        """The id of the proof that was needed; the partition is locked."""
        if self.free is None:
            return None
        lately = repository.withdrawn_lately(uow.connection, customer_id, asset_name)
        if money.EXACT.add(lately, amount) <= self.free:
            return None
        if self.proof is None:
            raise SecondFactorRequired()
        if repository.proof_is_taken(uow.connection, self.proof.proof_id):
            raise SecondFactorRefused()
        return self.proof.proof_id


_OPEN = _Gate()


def _transfer(
    uow: UnitOfWork,
    kind: TransferKind,
    customer_id: int,
    asset_name: str,
    amount: Decimal,
    reference: str,
    call: IdempotentCall | None,
    gate: _Gate = _OPEN,
) -> Replay:
    if call is not None:
        replay = idempotency.claim(uow.connection, call.scope, call.digest)
        if replay is not None:
            return replay
    # The partition's lock also makes this the only one that looks for the reference.
    repository.lock_partitions(uow.connection, [customer_id])
    known = repository.find_transfer_by_reference(uow.connection, customer_id, kind, reference)
    fault("transfers.decided")
    if known is not None:
        if (known["asset_name"], known["amount"]) != (asset_name, amount):
            raise ReferenceReused(reference=reference)
        outcome = Replay(200, known["id"])
    else:
        _check(uow, asset_name, amount)
        proof_id = gate.pass_with(uow, customer_id, asset_name, amount)
        transfer_id = _store(uow, kind, customer_id, asset_name, amount, reference, proof_id)
        outcome = Replay(201, transfer_id, replayed=False)
    if call is not None:
        idempotency.complete(
            uow.connection, call.scope, status_code=outcome.status_code, resource_id=outcome.resource_id
        )
    return outcome


def _check(uow: UnitOfWork, asset_name: str, amount: Decimal) -> None:
    instrument = repository.find_instrument(uow.connection, asset_name)
    if instrument is None:
        raise unknown_asset()
    if not money.fits_scale(amount, instrument["size_scale"]):
        raise too_many_decimals(instrument["size_scale"])


def _store(
    uow: UnitOfWork,
    kind: TransferKind,
    customer_id: int,
    asset_name: str,
    amount: Decimal,
    reference: str,
    proof_id: str | None,
) -> str:
    transfer_id = new_id()
    before = repository.find_asset(uow.connection, customer_id, asset_name)
    after = _move(uow, kind, customer_id, asset_name, amount, before)
    fault("transfers.moved")
    values: Row = {
        "id": transfer_id,
        "customer_id": customer_id,
        "kind": kind.value,
        "asset_name": asset_name,
        "amount": amount,
        "reference": reference,
        "placed_by": uow.context.actor.id,
        "organization_id": uow.context.organization_id,
        "proof_id": proof_id,
    }
    if not repository.insert_transfer(uow.connection, values):
        raise Conflict(reference)
    signed = amount if kind is TransferKind.DEPOSIT else money.EXACT.minus(amount)
    posting = ledger.post(
        f"{kind.lower()}:{transfer_id}",
        kind.value,
        TRANSFER,
        transfer_id,
        [
            Leg(customer_account(customer_id, asset_name), asset_name, signed),
            Leg(system_account(AccountClass.EXTERNAL, asset_name), asset_name, money.EXACT.minus(signed)),
        ],
    )
    repository.insert_postings(uow.connection, [posting], {})
    fault("transfers.posted")
    _record(uow, kind, values, before, after)
    return transfer_id


def _move(
    uow: UnitOfWork, kind: TransferKind, customer_id: int, asset_name: str, amount: Decimal, before: Row | None
) -> Row:
    if kind is TransferKind.DEPOSIT:
        size = before["size"] if before else money.ZERO
        if money.EXACT.add(size, amount) >= BALANCE_LIMIT:
            raise balance_too_large()
        return repository.credit(uow.connection, customer_id, asset_name, amount, uow.context.organization_id)
    row = repository.debit(uow.connection, customer_id, asset_name, amount)
    if row is None:
        raise InsufficientFunds()
    return row


def _record(uow: UnitOfWork, kind: TransferKind, values: Row, before: Row | None, after: Row) -> None:
    event = FundsDeposited if kind is TransferKind.DEPOSIT else FundsWithdrawn
    uow.record(
        event(
            before=_said(before) if before else {"size": "0", "usable_size": "0"},
            after=_said(after),
            asset_name=values["asset_name"],
            amount=plain(values["amount"]),
            reference=values["reference"],
        ),
        aggregate_id=values["id"],
        customer_id=values["customer_id"],
    )
    if after["low_balance"] and before is not None and not before["low_balance"]:
        uow.record(
            LowBalance(
                before={"low_balance": False},
                after={"low_balance": True, "usable_size": money.text(after["usable_size"])},
                asset_name=values["asset_name"],
                size=after["size"],
                usable_size=after["usable_size"],
            ),
            aggregate_id=f"{values['customer_id']}:{values['asset_name']}",
            aggregate_version=after["version"],
            customer_id=values["customer_id"],
        )


def _said(row: Row) -> dict[str, str]:
    return {"size": money.text(row["size"]), "usable_size": money.text(row["usable_size"])}
