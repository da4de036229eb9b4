"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from infra.reconcile import balances, ledger, messages, orders, sagas, trades, trail
from infra.reconcile.check import Check, Examined
from infra.reconcile.stores import Stores

CHECKS: tuple[Check, ...] = (
    *balances.CHECKS,
    *ledger.CHECKS,
    *orders.CHECKS,
    *trades.CHECKS,
    *sagas.CHECKS,
    *messages.CHECKS,
    *trail.CHECKS,
)


def reconcile(stores: Stores) -> Iterator[tuple[Check, Examined]]:
    """Each check with what it saw, as soon as it is done.

    Raises:
        DatabaseUnavailable: a store does not answer.
    """
    for check in CHECKS:
        examined = Examined(stores.settings.findings_max)
        check.run(stores, examined)
        yield check, examined
