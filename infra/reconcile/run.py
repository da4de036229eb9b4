"""All checks, two at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
    """Each check with what it saw, in the order of their numbers.

    Raises:
        DatabaseUnavailable: a store does not answer.
    """
    # The last one takes about as long as all others, and waits for other servers than they do: it is begun first.
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = [(check, pool.submit(_examined, check, stores)) for check in reversed(CHECKS)]
        try:
            for check, examined in reversed(running):
                yield check, examined.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _examined(check: Check, stores: Stores) -> Examined:
    examined = Examined(stores.settings.findings_max)
    check.run(stores, examined)
    return examined
