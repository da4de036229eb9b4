"""Proof that the ledger was never changed and adds up."""

from dataclasses import dataclass
from decimal import Decimal

from asset_service import ledger, repository
from asset_service.ledger import Leg
from asset_service.repository import Row
from shared import money
from shared.db import Connection, Database


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that is wrong. `tx_ref` or `subject` (an account or asset) says where."""

    reason: str
    tx_ref: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    transactions: int
    entries: int
    first_bad: Finding | None

    @property
    def valid(self) -> bool:
        return self.first_bad is None


def verify_ledger(database: Database) -> Verification:
    """Recompute every digest, every sum per transaction and asset, and every customer's balance, in one snapshot.

    Memory is bounded; time grows with the ledger. Source: contract, Invariants 3 and 4.
    """
    with database.read() as connection, connection.transaction():
        repository.read_one_snapshot(connection)
        return verify(connection)


def verify(connection: Connection) -> Verification:
    """The same in a snapshot that the caller has opened."""
    transactions = entries = 0
    totals: dict[str, Decimal] = {}
    first_bad: Finding | None = None
    for rows in repository.stream_ledger(connection):
        transactions += 1
        legs = [
            Leg(row["account_id"], row["asset_name"], row["amount"]) for row in rows if row["account_id"] is not None
        ]
        entries += len(legs)
        for leg in legs:
            totals[leg.asset_name] = money.EXACT.add(totals.get(leg.asset_name, money.ZERO), leg.amount)
        first_bad = first_bad or _bad_transaction(rows[0], legs)
    return Verification(transactions, entries, first_bad or _bad_sums(connection, totals))


def _bad_transaction(row: Row, legs: list[Leg]) -> Finding | None:
    if ledger.digest(legs) != row["digest"]:
        return Finding("The legs are not those that were posted.", tx_ref=row["tx_ref"])
    if len(legs) < 2 or not ledger.is_balanced(legs):
        return Finding("The legs do not sum to zero.", tx_ref=row["tx_ref"])
    return None


def _bad_sums(connection: Connection, totals: dict[str, Decimal]) -> Finding | None:
    orphan = repository.find_orphan_entry(connection)
    if orphan is not None:
        reason = "An entry belongs to no known transaction or account."
        return Finding(reason, tx_ref=orphan["tx_ref"], subject=orphan["account_id"])
    for asset_name, total in sorted(totals.items()):
        if total:
            return Finding("All accounts of the asset do not sum to zero.", subject=asset_name)
    unequal = repository.find_unequal_balance(connection)
    if unequal is not None:
        return Finding("The balance is not the sum of the account's entries.", subject=unequal["account_id"])
    return None
