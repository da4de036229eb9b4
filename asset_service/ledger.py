"""The double-entry ledger's rules, pure: accounts, legs that sum to zero per asset, and the digest that proves them.

A leg's amount is signed: what the account gains is positive. Source: contract, Ledger.
"""

import hashlib
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from asset_service.states import AccountClass
from shared import money


class UnbalancedLegs(Exception):
    """Legs that would make or destroy something: a bug in the caller. Nothing is written."""


class Leg(NamedTuple):
    account_id: str
    asset_name: str
    amount: Decimal


class Posting(NamedTuple):
    """One ledger transaction. `tx_ref` names what caused it, so that it can be posted only once."""

    tx_ref: str
    kind: str
    source_type: str
    source_id: str
    legs: tuple[Leg, ...]
    digest: str


def customer_account(customer_id: int, asset_name: str) -> str:
    return f"{AccountClass.CUSTOMER.lower()}:{customer_id}:{asset_name}"


def system_account(account_class: AccountClass, asset_name: str) -> str:
    return f"{account_class.lower()}:{asset_name}"


SYSTEM_CLASSES = (AccountClass.HOUSE, AccountClass.FEE, AccountClass.EXTERNAL, AccountClass.ROUNDING)
"""The system's own accounts; each asset has one of each from the moment it is known."""


def post(tx_ref: str, kind: str, source_type: str, source_id: str, legs: Iterable[Leg]) -> Posting:
    """The transaction of these legs: one leg per account and asset, none of zero, in canonical order.

    Raises:
        UnbalancedLegs: fewer than two legs are left, or an asset does not sum to zero.
    """
    add = money.EXACT.add
    sums: dict[tuple[str, str], Decimal] = {}
    for account_id, asset_name, amount in legs:
        if amount:
            key = (account_id, asset_name)
            sums[key] = add(sums[key], amount) if key in sums else amount
    kept = tuple([Leg(*key, sums[key]) for key in sorted(sums) if sums[key]])
    if len(kept) < 2 or not is_balanced(kept):
        raise UnbalancedLegs(tx_ref)
    return Posting(tx_ref, kind, source_type, source_id, kept, digest(kept))


def is_balanced(legs: Iterable[Leg]) -> bool:
    """Whether the legs sum to zero in every asset."""
    sums: dict[str, Decimal] = {}
    for leg in legs:
        sums[leg.asset_name] = money.EXACT.add(sums.get(leg.asset_name, money.ZERO), leg.amount)
    return not any(sums.values())


def digest(legs: Sequence[Leg]) -> str:
    """SHA-256 over the legs in canonical order and notation; the same whatever order they come in."""
    lines = sorted([f"{account}\t{asset}\t{money.text(amount)}\n" for account, asset, amount in legs])
    return hashlib.sha256("".join(lines).encode()).hexdigest()
