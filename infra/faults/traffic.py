"""What clients do all the time: order, cancel, match, cross, pay in and out, read. Seeded, so that a run can be repeated."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from infra.faults.client import Client, Session, refused_for_now
from infra.faults.history import Attempt, Outcome, Request
from infra.faults.people import CASH, CROSSED, SHARES, SWEPT, People, deposit
from shared.ids import new_id

_RECENT_MAX = 60
_PAUSE_SECONDS = 0.02
_AGAIN_AT_ONCE = 0.5
"""How often a client that got no answer repeats at once; the others leave it open until the end."""
_REPEATS_MAX = 2


class Pace:
    """How many orders are due: `total` spread evenly over `seconds`, or as many as the clients manage.

    A pace that fell behind during an outage catches up afterwards.
    """

    def __init__(self, total: int, seconds: float) -> None:
        self._total = total
        self._rate = total / seconds if seconds else float("inf")
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._paused_at: float | None = None
        self.placed = 0
        self.flat_out = False

    def may_place(self) -> bool:
        """Take the next order that is due."""
        with self._lock:
            due = (time.monotonic() - self._started) * self._rate
            if not self.flat_out and (self.placed >= due or self.placed >= self._total):
                return False
            self.placed += 1
            return True

    @property
    def is_done(self) -> bool:
        return self.placed >= self._total


@dataclass(slots=True)
class Trader:
    """A customer at his terminal: his orders, the newest last."""

    session: Session
    random: random.Random
    orders: deque[str] = field(default_factory=lambda: deque(maxlen=_RECENT_MAX))
    notifications: deque[str] = field(default_factory=lambda: deque(maxlen=_RECENT_MAX))


class Traffic:
    """A thread per customer, two for the admin, one for the broker; from `start` until `stop`."""

    def __init__(self, client: Client, people: People, pace: Pace, *, seed: int) -> None:
        self._client = client
        self._people = people
        self._pace = pace
        self._seed = seed
        self._stop = threading.Event()
        self._traders = {
            each.customer_id: Trader(each, random.Random(f"{seed} {each.username}")) for each in people.customers
        }
        self._threads: list[threading.Thread] = []
        self.errors: list[str] = []

    def start(self) -> None:
        works: list[Callable[[], None]] = [
            *(lambda trader=trader: self._trade(trader) for trader in self._traders.values()),
            self._administrate,
            self._sweep,
            self._broke,
        ]
        for number, work in enumerate(works):
            thread = threading.Thread(target=self._guarded, args=(work,), name=f"client {number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float = 60.0) -> None:
        """Let every client end what it is at."""
        self._stop.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    def _guarded(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a client that errs is a flaw of the run itself, and the verdict says so
                self.errors.append(f"{threading.current_thread().name}: {error!r}")
                self._stop.wait(1.0)

    # -- customers -----------------------------------------------------------------------------------------------------

    def _trade(self, trader: Trader) -> None:
        while not self._stop.is_set():
            if not self._pace.may_place():
                self._stop.wait(_PAUSE_SECONDS)
                continue
            self._place(trader, trader.session)
            for chance, act in self._CUSTOMER_ACTS:
                if trader.random.random() < chance and not self._stop.is_set():
                    act(self, trader)

    def _place(self, trader: Trader, by: Session) -> None:
        chosen = trader.random
        side = chosen.choice(("BUY", "SELL"))
        # Around 100, so that most find a partner; one in fifty is more than anybody owns.
        price = Decimal(100) + Decimal(chosen.randint(-300, 300)) / 100
        size = Decimal(chosen.randint(1, 20)) if chosen.random() > 0.02 else Decimal(9_000_000)
        body: dict[str, Any] = {
            "asset_name": chosen.choice(SHARES),
            "order_side": side,
            "order_type": "LIMIT",
            "time_in_force": "GTC",
            "size": str(size),
            "price": str(price),
        }
        key, keyed_by = new_id(), "header"
        if chosen.random() < 0.7:
            body["client_order_id"], keyed_by = key, "body"
        if by is not trader.session:
            body["customer_id"] = trader.session.customer_id
        request = self._new("place", by, "POST", "/api/orders", body=body, key=key, keyed_by=keyed_by)
        hang_up = chosen.random() < 0.01
        self._send(request, by, chosen, hang_up=hang_up)
        for answer in request.answers[:1]:
            trader.orders.append(answer["id"])

    def _cancel(self, trader: Trader) -> None:
        if trader.orders:
            order_id = trader.random.choice(list(trader.orders)[-10:])
            request = self._new("cancel", trader.session, "DELETE", f"/api/orders/{order_id}", keyed_by="path")
            self._send(request, trader.session, trader.random)

    def _read(self, trader: Trader) -> None:
        paths = ["/api/orders?limit=20", "/api/assets", "/api/trades?limit=20", "/api/reservations?limit=20"]
        if trader.orders:
            order_id = trader.random.choice(list(trader.orders))
            paths += [f"/api/orders/{order_id}", f"/api/orders/{order_id}/events"] * 2
        request = self._new("read", trader.session, "GET", trader.random.choice(paths))
        self._send(request, trader.session, None).answer = None

    def _read_notifications(self, trader: Trader) -> None:
        request = self._new("read", trader.session, "GET", "/api/notifications?limit=20")
        self._send(request, trader.session, None)
        for answer in request.answers:
            trader.notifications.extend(each["id"] for each in answer["data"])
        request.attempts[-1].answer = None

    def _mark_read(self, trader: Trader) -> None:
        if trader.notifications:
            path = f"/api/notifications/{trader.notifications.pop()}/read"
            request = self._new("mark_read", trader.session, "POST", path, keyed_by="path")
            self._send(request, trader.session, trader.random)

    def _withdraw(self, trader: Trader) -> None:
        asset_name = trader.random.choice((CASH, *SHARES))
        amount = Decimal(trader.random.randint(1, 500)) if trader.random.random() > 0.1 else Decimal(90_000_000)
        reference = new_id()
        body = {"asset_name": asset_name, "amount": str(amount), "reference": reference}
        request = self._new(
            "withdraw", trader.session, "POST", "/api/assets/withdraw", body=body, key=reference, keyed_by="body"
        )
        self._send(request, trader.session, trader.random)

    _CUSTOMER_ACTS: tuple[tuple[float, Callable[[Traffic, Trader], None]], ...] = (
        (0.15, _cancel),
        (0.30, _read),
        (0.05, _read_notifications),
        (0.05, _mark_read),
        (0.05, _withdraw),
    )

    # -- staff ---------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """The admin's matching runs; without them nothing trades."""
        chosen = random.Random(f"{self._seed} sweep")
        while not self._stop.wait(0.25):
            body = {"asset_name": chosen.choice(SWEPT)}
            request = self._new(
                "run", self._people.admin, "POST", "/api/matching/run", body=body, key=new_id(), keyed_by="header"
            )
            self._send(request, self._people.admin, chosen)

    def _administrate(self) -> None:
        chosen = random.Random(f"{self._seed} admin")
        acts = (self._cross, self._match_with_house, self._pay_in, self._cross)
        while not self._stop.wait(0.3):
            chosen.choice(acts)(chosen)

    def _cross(self, chosen: random.Random) -> None:
        admin = self._people.admin
        request = self._new("read", admin, "GET", f"/api/matching/queue?asset_name={CROSSED}&limit=200")
        self._send(request, admin, None)
        rows = [each for answer in request.answers for each in answer["data"]]
        request.attempts[-1].answer = None
        buys = [row for row in rows if row["order_side"] == "BUY"]
        sells = [row for row in rows if row["order_side"] == "SELL"]
        if not buys or not sells:
            return
        buy = max(buys, key=lambda row: Decimal(row["price"]))
        sell = min(sells, key=lambda row: Decimal(row["price"]))
        body = {"buy_order_id": buy["order_id"], "sell_order_id": sell["order_id"]}
        request = self._new("cross", admin, "POST", "/api/matching/crosses", body=body, key=new_id(), keyed_by="header")
        self._send(request, admin, chosen)

    def _match_with_house(self, chosen: random.Random) -> None:
        trader = chosen.choice(list(self._traders.values()))
        if trader.orders:
            path = f"/api/orders/{chosen.choice(list(trader.orders))}/match"
            request = self._new("match", self._people.admin, "POST", path, body={}, key=new_id(), keyed_by="header")
            self._send(request, self._people.admin, chosen)

    def _pay_in(self, chosen: random.Random) -> None:
        customer = chosen.choice(self._people.customers)
        amount = Decimal(chosen.randint(1, 100_000)) / 100
        request = deposit(self._client, self._people.admin, customer.customer_id, CASH, amount)
        self._send(request, self._people.admin, chosen)

    def _broke(self) -> None:
        """The broker orders for those he serves, and looks after them."""
        chosen = random.Random(f"{self._seed} broker")
        while not self._stop.wait(0.5):
            trader = self._traders[chosen.choice(self._people.served).customer_id]
            if self._pace.may_place():
                self._place(trader, self._people.broker)
            request = self._new("read", self._people.broker, "GET", "/api/orders?limit=20")
            self._send(request, self._people.broker, None).answer = None

    # -- sending -------------------------------------------------------------------------------------------------------

    def _new(self, kind: str, by: Session, method: str, path: str, **more: Any) -> Request:
        return self._client.history.new(kind, by.username, by.customer_id, method, path, **more)

    def _send(self, request: Request, by: Session, chosen: random.Random | None, *, hang_up: bool = False) -> Attempt:
        """Once; a keyed one that got no answer sometimes again, as some clients do. Reads keep no answer."""
        attempt = self._client.attempt(request, by, hang_up=hang_up)
        for _ in range(_REPEATS_MAX):
            settled = attempt.outcome is not Outcome.UNKNOWN and not refused_for_now(attempt)
            if settled or request.keyed_by == "none" or chosen is None:
                break
            if chosen.random() > _AGAIN_AT_ONCE or self._stop.wait(0.3):
                break
            attempt = self._client.attempt(request, by)
        if attempt.outcome is Outcome.UNKNOWN or refused_for_now(attempt):
            self._stop.wait(0.2)
        return attempt
