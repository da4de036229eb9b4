"""What clients do to a system: the same request many times at once, and hanging up before the answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from infra.faults.client import Session
from infra.faults.history import Outcome, Request
from infra.faults.people import CASH, SHARES, deposit
from infra.faults.world import Kind, World, kind
from shared.ids import new_id

_AT_ONCE = 10


def _order(world: World, customer: Session, chosen: random.Random) -> Request:
    key = new_id()
    body: dict[str, Any] = {
        "asset_name": chosen.choice(SHARES),
        "order_side": chosen.choice(("BUY", "SELL")),
        "order_type": "LIMIT",
        "time_in_force": "GTC",
        "size": str(chosen.randint(1, 9)),
        "price": "100",
    }
    by_body = chosen.random() < 0.5
    if by_body:
        body["client_order_id"] = key
    return world.client.history.new(
        "place",
        customer.username,
        customer.customer_id,
        "POST",
        "/api/orders",
        body=body,
        key=key,
        keyed_by="body" if by_body else "header",
    )


def _at_once(make: Callable[[World, random.Random], tuple[Request, Session]]) -> Callable[..., str | None]:
    """One request ten times at the same moment; that all have one answer the proof sees in the history."""

    def inject(world: World, chosen: random.Random) -> str | None:
        request, session = make(world, chosen)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            attempts = list(pool.map(lambda _: world.client.attempt(request, session), range(_AT_ONCE)))
        answered = sum(attempt.outcome is Outcome.OK for attempt in attempts)
        return f"{answered} of {_AT_ONCE} answered" if answered else None

    return inject


def _an_order(world: World, chosen: random.Random) -> tuple[Request, Session]:
    customer = chosen.choice(world.people.customers)
    return _order(world, customer, chosen), customer


def _a_deposit(world: World, chosen: random.Random) -> tuple[Request, Session]:
    customer = chosen.choice(world.people.customers)
    amount = Decimal(chosen.randint(1, 1_000))
    return deposit(world.client, world.people.admin, customer.customer_id, CASH, amount), world.people.admin


def _hang_up(world: World, chosen: random.Random) -> str | None:
    def send(number: int) -> bool:
        customer = world.people.customers[number % len(world.people.customers)]
        request = _order(world, customer, random.Random(f"{chosen.random()} {number}"))
        return world.client.attempt(request, customer, hang_up=True).error == "we hung up"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        hung = sum(pool.map(send, range(_AT_ONCE)))
    return f"{hung} clients hung up" if hung else None


KINDS: tuple[Kind, ...] = (
    kind("same order ten times at once", "clients")(_at_once(_an_order)),
    kind("same deposit ten times at once", "clients")(_at_once(_a_deposit)),
    kind("clients hang up", "clients")(_hang_up),
)
