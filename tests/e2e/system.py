"""The whole system as its users meet it: started by `brokage up`, spoken to over HTTP, its processes killed by pid."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2

from customer_service.passwords import Passwords
from customer_service.service.customers import Registration, ensure_customer, ensure_tier
from customer_service.settings import Settings
from infra.runtime.running import find_system
from shared.db import Database
from shared.ids import new_id

T = TypeVar("T")

# What is lost in the broker comes again when the relay's lease is over: 2 s here, 15 s in earnest.
ENVIRONMENT = {
    "BROKAGE_PROFILE": "test",
    "BROKAGE_RELAY_LEASE_SECONDS": "2",
    "BROKAGE_RELAY_SWEEP_SECONDS": "0.5",
    "BROKAGE_ARGON2_TIME_COST": "1",
    "BROKAGE_ARGON2_MEMORY_KIB": "64",
}
FINAL = frozenset({"MATCHED", "CANCELED", "EXPIRED", "REJECTED"})
JUDGED = FINAL | {"ORDER_CONFIRMED", "PARTIALLY_MATCHED"}
TERMS = {"asset_name": "AAPL", "order_type": "LIMIT", "time_in_force": "GTC"}
START_SECONDS = 120.0
STOP_SECONDS = 30.0
TIER = "LOAD"
PASSWORD = "as good as any"


def wait_until(predicate: Callable[[], T | Literal[False]], seconds: float = 20.0, what: str = "it") -> T:
    """What `predicate` answers as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds:.0f} s"
        time.sleep(0.05)
    return found


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all, which start at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(works))

    def at_once(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(at_once, works))


class User:
    """Somebody signed in. Amounts are text, as on the wire."""

    def __init__(self, client: httpx2.Client, username: str, password: str) -> None:
        self._client = client
        self.username = username
        form = {"grant_type": "password", "username": username, "password": password}
        answer = client.post("/api/auth/token", data=form)
        assert answer.status_code == 200, answer.text
        self._token = answer.json()["access_token"]
        self.id: int = self.get("/api/me")["customer_id"]

    def request(
        self, method: str, path: str, *, wait: int | None = None, key: str | None = None, **options: Any
    ) -> Any:
        """The answer, whatever it is; who is told to come again does.

        503 is the only failure the system may answer, and it must say when to try again.
        """
        headers = {"Authorization": f"Bearer {self._token}"}
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        if key is not None:
            headers["Idempotency-Key"] = key
        for _ in range(30):
            answer = self._client.request(method, path, headers=headers, **options)
            if answer.status_code != 503:
                break
            assert "Retry-After" in answer.headers, answer.text
            time.sleep(min(float(answer.headers["Retry-After"]), 1.0))
        assert answer.status_code < 500, answer.text
        return answer

    def once(self, method: str, path: str, **options: Any) -> Any:
        """The answer to one request, 503 as well."""
        return self._client.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **options)

    def sign_out(self) -> None:
        assert self._client.post("/api/auth/revoke", data={"token": self._token}).status_code == 204

    def get(self, path: str, **params: Any) -> Any:
        answer = self.request("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def all(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Every page of a collection."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, limit=200, **params, **cursor)
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def place(self, side: str, size: str, price: str, *, wait: int | None = 10, **terms: Any) -> dict[str, Any]:
        """An accepted order, judged unless `wait` is None."""
        body = {**TERMS, "order_side": side, "size": size, "price": price, "client_order_id": new_id(), **terms}
        answer = self.request("POST", "/api/orders", wait=wait, json=body)
        assert answer.status_code in (200, 201), answer.text
        order: dict[str, Any] = answer.json()
        return order

    def confirmed(self, side: str, size: str, price: str, **terms: Any) -> dict[str, Any]:
        """An order as soon as it is confirmed. What was in work when a process ended comes again by its lease: 15 s in earnest."""
        order = self.place(side, size, price, **terms)
        if order["status"] not in JUDGED:
            order = wait_until(lambda: self._judged(order["id"]), 30.0, "the order's judgement")
        assert order["status"] == "ORDER_CONFIRMED", order
        return order

    def _judged(self, order_id: str) -> dict[str, Any] | Literal[False]:
        order = self.order(order_id)
        return order if order["status"] in JUDGED else False

    def cancel(self, order_id: str, wait: int | None = None) -> Any:
        return self.request("DELETE", f"/api/orders/{order_id}", wait=wait)

    def order(self, order_id: str) -> dict[str, Any]:
        order: dict[str, Any] = self.get(f"/api/orders/{order_id}")
        return order

    def orders(self) -> list[dict[str, Any]]:
        return self.all("/api/orders")

    def history(self, order_id: str) -> list[str]:
        return [step["status"] for step in self.get(f"/api/orders/{order_id}/events")["data"]]

    def balance(self, asset_name: str) -> tuple[Decimal, Decimal]:
        """Size and usable size."""
        for asset in self.all("/api/assets"):
            if asset["asset_name"] == asset_name:
                return Decimal(asset["size"]), Decimal(asset["usable_size"])
        return Decimal(0), Decimal(0)

    def notifications_of(self, order_id: str) -> list[dict[str, Any]]:
        return [each for each in self.all("/api/notifications") if each["related_entity"]["id"] == order_id]


class Admin(User):
    """Matches and pays in."""

    def match(self, order_id: str, *, wait: int | None = 10, **terms: str) -> Any:
        return self.request("POST", f"/api/orders/{order_id}/match", wait=wait, key=new_id(), json=terms)

    def cross(self, buy: Mapping[str, Any], sell: Mapping[str, Any], **terms: str) -> dict[str, Any]:
        """The settled trade."""
        body = {"buy_order_id": buy["id"], "sell_order_id": sell["id"], **terms}
        answer = self.request("POST", "/api/matching/crosses", wait=10, key=new_id(), json=body)
        assert answer.status_code == 202, answer.text
        (trade,) = answer.json()["trades"]
        assert trade["status"] == "SETTLED", trade
        found: dict[str, Any] = trade
        return found

    def run_matching(self, asset_name: str) -> int:
        """How many trades a sweep made."""
        answer = self.request("POST", "/api/matching/run", key=new_id(), json={"asset_name": asset_name})
        assert answer.status_code == 202, answer.text
        return len(answer.json()["trades"])

    def deposit(self, customer_id: int, asset_name: str, amount: str, reference: str | None = None) -> Any:
        body = {"customer_id": customer_id, "asset_name": asset_name, "amount": amount}
        return self.request("POST", "/api/assets/deposit", json={**body, "reference": reference or new_id()})

    def add_instrument(self, asset_name: str) -> str:
        """A share that nobody else trades."""
        terms = {"quote_asset": "TRY", "size_scale": 6, "price_scale": 2, "status": "TRADING"}
        answer = self.request("PUT", f"/api/instruments/{asset_name}", json=terms)
        assert answer.status_code in (200, 201), answer.text
        return asset_name


class System:
    """One `brokage up --demo` in a directory of its own, with further settings by environment."""

    def __init__(self, **environment: str) -> None:
        # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
        self._directory = Path(tempfile.mkdtemp(prefix="brokage-e2e-"))
        self._directory.chmod(0o711)
        self.data_dir = self._directory / "data"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("BROKAGE_")} | ENVIRONMENT
        self._environment |= environment
        self._output = self._directory / "output"
        self._up: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._customers: Database | None = None

    def start(self) -> None:
        options = ["--demo", "--port", "0", "--data-dir", str(self.data_dir)]
        with self._output.open("w") as output:
            up = self._up = subprocess.Popen(
                self._command("up", *options),
                cwd=self._directory,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: "\nready " in self.output() or up.poll() is not None, START_SECONDS, "the start")
        assert up.poll() is None, self.output()
        self.client = httpx2.Client(
            base_url=self.urls["api"],
            timeout=30,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self.admin = Admin(self.client, "admin", "demo-admin")
        self.auditor = self.sign_in("auditor")
        self._customers = Database(self.urls["customers"], name="e2e", pool_size=1)
        ensure_tier(self._customers, tier_code=TIER, tier_name="Load", priority=9, rate_limit=1_000_000)

    def end(self) -> int:
        """As Ctrl-C does; the exit code."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        return self._up.wait(STOP_SECONDS)

    def close(self) -> None:
        """End it if it still runs, and remove all it wrote."""
        if self._customers is not None:
            self._customers.close()
            self.client.close()
        try:
            if self._up is not None and self._up.poll() is None:
                self.end()
        finally:
            if self._up is not None and self._up.poll() is None:
                self._up.kill()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "infra", *arguments]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `brokage` command about this system."""
        return subprocess.run(
            self._command(*arguments, "--data-dir", str(self.data_dir)),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def output(self) -> str:
        return self._output.read_text()

    @property
    def urls(self) -> dict[str, str]:
        return find_system(self.data_dir).urls

    def kill(self, role: str) -> None:
        """SIGKILL its process."""
        os.kill(self.pid(role), signal.SIGKILL)

    def pid(self, role: str) -> int:
        pid: int = self._process(role)["pid"]
        return pid

    def is_ready(self, role: str) -> bool:
        return bool(self._process(role)["state"] == "ready")

    def _process(self, role: str) -> dict[str, Any]:
        (found,) = [each for each in find_system(self.data_dir).processes if each["role"] == role]
        return found

    def sign_in(self, username: str) -> User:
        """One of the demo's users."""
        return User(self.client, username, f"demo-{username}")

    def customer(self, **balances: str) -> User:
        """Somebody new with these deposits, whom no rate limit holds up."""
        assert self._customers is not None
        username = f"load{next(self._numbers)}"
        settings = Settings(customers_database_url="", argon2_time_cost=1, argon2_memory_kib=64)
        ensure_customer(self._customers, Registration(username, Passwords(settings).hash(PASSWORD), tier=TIER))
        user = User(self.client, username, PASSWORD)
        for asset_name, amount in balances.items():
            answer = self.admin.deposit(user.id, asset_name, amount)
            assert answer.status_code == 201, answer.text
        return user

    def wait_final(self, users: Iterable[User], seconds: float = 30.0) -> list[dict[str, Any]]:
        """Every order of theirs, once all are final."""
        users = list(users)

        def final() -> list[dict[str, Any]]:
            orders = [order for user in users for order in user.orders()]
            return orders if all(order["status"] in FINAL for order in orders) else []

        return wait_until(final, seconds, "the end of all orders")
