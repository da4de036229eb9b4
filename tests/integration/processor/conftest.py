"""The processor behind its edge and behind its queue's handler, on real servers. What other services would answer is told to it."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from processor.app import create
from processor.dependencies import ProcessorResources
from processor.service.deadlines import resend_overdue
from processor.service.expiry import expire_orders
from processor.settings import Settings
from processor.tasks import handler
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.contracts.assets import AssetReleased, AssetReserved, InstrumentChanged
from shared.contracts.customers import CustomerRegistered
from shared.contracts.message import Message
from shared.contracts.orders import OrderCanceled, OrderCancelRequested, OrderConfirmed, OrderCreated, OrderMatched
from shared.contracts.trades import TradeSettled, TradeSettlementFailed
from shared.db import Database
from shared.ids import new_id
from shared.testing.messages import create_customer_event, create_message

FILLED = {"filled_notional": Decimal(0), "fee_amount": Decimal(0), "average_price": Decimal(0)}
_customer_ids = itertools.count(secrets.randbelow(2**40) + 1000)


@dataclass
class Processor:
    """A client, the handler, and short ways to what every test needs."""

    client: TestClient
    database: Database
    settings: Settings
    url: str
    key: keys.SigningKey

    # -- messages --------------------------------------------------------------------------------------------------------

    def tell(self, *messages: Message[Any]) -> None:
        """One batch."""
        handle = handler(self.settings)
        self.database.run(lambda unit: handle(unit, messages))

    def created(self, side: str = "BUY", price: str = "10", size: str = "10", **values: Any) -> Message[Any]:
        customer_id = values.pop("customer_id", None) or next(_customer_ids)
        payload = OrderCreated(
            **{
                "asset_name": "AAPL",
                "quote_asset": "TRY",
                "order_side": side,
                "size": Decimal(size),
                "price": Decimal(price),
                "order_type": "LIMIT",
                "time_in_force": "GTC",
                "placed_by": customer_id,
                "tier": "VIP",
                "tier_priority": 1,
                "beneficial_owner_id": customer_id,
                "fee_rate": Decimal(0),
                "fee_minimum": Decimal(0),
                **values,
            }
        )
        return create_message(payload, customer_id=customer_id)

    def ending(self, seconds: float = 3600, **values: Any) -> str:
        """The id of an order on the book whose time is over in so many seconds."""
        [(end,)] = self.query("SELECT brokage_now() + make_interval(secs => %s)", seconds)
        return self.resting(expires_at=end, time_in_force="GTD", **values)

    def resting(self, side: str = "BUY", price: str = "10", size: str = "10", **values: Any) -> str:
        """The id of an order on the book."""
        opening = self.created(side, price, size, **values)
        order_id = opening.aggregate_id
        self.tell(opening)
        self.tell(reserved(order_id))
        self.tell(about(OrderConfirmed, order_id))
        return order_id

    # -- what is there ---------------------------------------------------------------------------------------------------

    def query(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()

    def state(self, saga_id: str) -> str:
        [(state,)] = self.query("SELECT current_state FROM saga_instances WHERE saga_id = %s", saga_id)
        return str(state)

    def entry(self, order_id: str) -> tuple[Any, ...] | None:
        """remaining, in settlement, filled, on the book; None when it has left the queue."""
        rows = self.query(
            "SELECT remaining_size, in_settlement_size, filled_size, on_book FROM matching_queue WHERE id = %s",
            order_id,
        )
        return tuple(rows[0]) if rows else None

    def said(self, aggregate_id: str, receiver: str | None = None) -> list[str]:
        """The types of what was said of an aggregate to `receiver` (else: commands to any), in order."""
        rows = self.query(
            "SELECT m->>'type' FROM outbox_events, jsonb_array_elements(payload::jsonb) WITH ORDINALITY AS e (m, n)"
            " WHERE m->>'aggregate_id' = %s AND destination = ANY(%s) ORDER BY seq, n",
            aggregate_id,
            [receiver] if receiver else ["order_service", "asset_service"],
        )
        return [name for (name,) in rows]

    def trades(self, order_id: str) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return connection.execute(
                "SELECT * FROM trades WHERE buy_order_id = %(id)s OR sell_order_id = %(id)s ORDER BY id",
                {"id": order_id},
            ).fetchall()

    # -- answers of asset_service ----------------------------------------------------------------------------------------

    def settled(self, trade_id: str) -> Message[Any]:
        terms = self._terms(trade_id)
        notional = terms["size"] * terms["price"]
        fees = {"buyer_fee": Decimal(0), "seller_fee": Decimal(0)}
        return create_message(TradeSettled(**terms, notional=notional, **fees), aggregate_id=trade_id)

    def failed(self, trade_id: str) -> Message[Any]:
        payload = TradeSettlementFailed(**self._terms(trade_id), reason="RESERVATION_MISMATCH")
        return create_message(payload, aggregate_id=trade_id)

    def _terms(self, trade_id: str) -> dict[str, Any]:
        with self.database.read() as connection:
            row = connection.execute("SELECT * FROM trades WHERE id = %s", (trade_id,)).fetchone()
        assert row is not None
        return {name: row[name] for name in TradeSettled.__struct_fields__ if name in row and name not in _ANSWERED}

    # -- time ------------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Move the database's clock forward; it goes on from there."""
        self.query("UPDATE clock_offset SET value = value + make_interval(secs => %s) RETURNING 1", seconds)
        self.database.clock._expires = 0.0

    def acknowledge(self) -> None:
        """Everything that was said has arrived."""
        self.query(
            "UPDATE outbox_events SET status = 'ACKED', acked_at = brokage_now() WHERE acked_at IS NULL RETURNING 1"
        )

    def expire(self) -> int:
        return expire_orders(self.database, self.settings)

    def sweep(self) -> int:
        return resend_overdue(self.database, self.settings)

    # -- HTTP ------------------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, user: int, **options: Any) -> Any:
        token = tokens.issue(self.key, customer_id=user, session_id=new_id())
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **options)

    def post(self, path: str, user: int, body: dict[str, Any] | None = None, *, key: str | None = None) -> Any:
        return self.request("POST", path, user, json=body or {}, headers={"Idempotency-Key": key or new_id()})

    def match(self, order_id: str, user: int, *, key: str | None = None, **body: str) -> Any:
        return self.post(f"/api/orders/{order_id}/match", user, body, key=key)

    def matched(self, order_id: str, user: int, **body: str) -> str:
        """The id of the trade with HOUSE."""
        answer = self.match(order_id, user, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["trades"][0]["id"])

    def user(self, role: Role, **values: Any) -> int:
        customer_id = next(_customer_ids)
        self.tell(create_customer_event(CustomerRegistered, customer_id, role=role.value, rate_limit=10**6, **values))
        return customer_id

    def together(self, *works: Callable[[], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(works)) as pool:
            return [future.result(30) for future in [pool.submit(work) for work in works]]


_ANSWERED = {"notional", "buyer_fee", "seller_fee", "before", "after"}


def reserved(order_id: str) -> Message[Any]:
    return create_message(AssetReserved(asset_name="TRY", amount=Decimal(100)), aggregate_id=order_id)


def released(order_id: str, reason: str = "CANCELED") -> Message[Any]:
    return create_message(AssetReleased(asset_name="TRY", amount=Decimal(1), reason=reason), aggregate_id=order_id)


def about(event: type[Any], order_id: str, asset_name: str = "AAPL") -> Message[Any]:
    """What order_service says of an order."""
    terms: dict[str, Any] = {
        "asset_name": asset_name,
        "quote_asset": "TRY",
        "order_side": "BUY",
        "size": Decimal(10),
        "price": Decimal(10),
        **(FILLED if event is OrderMatched else {}),
    }
    return create_message(event(**terms), aggregate_id=order_id)


def cancel(order_id: str, asset_name: str = "AAPL") -> Message[Any]:
    return about(OrderCancelRequested, order_id, asset_name)


def canceled(order_id: str) -> Message[Any]:
    return about(OrderCanceled, order_id)


@pytest.fixture(scope="session")
def _processor(servers: Any, fresh_database: Callable[[str], str]) -> Iterator[Processor]:
    url = fresh_database("processor")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # Other packages' fixtures leave servers and keys of their own in the environment until the run ends.
            for name, value in servers.env.items():
                patch.setenv(name, value)
            patch.setenv("BROKAGE_PROCESSOR_DATABASE_URL", url)
            app = create()
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        resources: ProcessorResources = app.state.services["processor"]
        database = Database(url, name="processor worker", pool_size=8, handler_limits=True)
        stack.callback(database.close)
        key = keys.load_signing_key(Path(servers.env["BROKAGE_KEY_DIR"]))
        yield Processor(client, database, resources.settings, url, key)


@pytest.fixture
def processor(_processor: Processor) -> Processor:
    """With an empty book and nothing overdue: orders of other tests are not in the way."""
    _processor.query("DELETE FROM matching_queue RETURNING 1")
    _processor.query("UPDATE saga_instances SET awaiting = false, deadline_at = NULL WHERE awaiting RETURNING 1")
    instrument = {"quote_asset": "TRY", "size_scale": 6, "price_scale": 2, "quote_scale": 8, "status": "TRADING"}
    _processor.tell(
        *(
            create_message(InstrumentChanged(asset_name=name, **instrument), aggregate_id=name)
            for name in ("AAPL", "GOOGL")
        )
    )
    return _processor


@pytest.fixture(scope="session")
def admin(_processor: Processor) -> int:
    return _processor.user(Role.ADMIN)
