"""An admin matches: one order against HOUSE, a cross of two, a sweep of the queue. Each decides under the instrument's lock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from processor import repository
from processor.errors import OrderNotOpen, PricesDoNotCross, SelfTrade, SizeExceedsRemainder
from processor.matching.book import QueuedOrder, any_cross, default_price, sweep
from processor.matching.policy import Policy, sort_key
from processor.matching.queue_entry import QueueEntry
from processor.repository import Row
from processor.sagas.opening import opening_of
from processor.sagas.trade_saga import TradeSagaState
from processor.settings import Settings
from processor.states import SagaType
from shared import money
from shared.contracts.orders import OrderSide
from shared.contracts.system import AdminActed
from shared.contracts.trades import SettleTrade
from shared.db import UnitOfWork
from shared.errors import FieldError, ValidationFailed
from shared.faults import fault
from shared.idempotency import IdempotentCall, Replay, claim, complete
from shared.ids import new_id

RUN_TRADES_MAX = 1_000
ACCEPTED = 202


@dataclass(frozen=True, slots=True)
class Execution:
    """A trade to be made. A side without a row is HOUSE."""

    size: Decimal
    price: Decimal
    buy: Row | None = None
    sell: Row | None = None


def once(unit: UnitOfWork, call: IdempotentCall, work: Callable[[], list[str]]) -> Replay:
    """Do `work` for the first request with this key; its answer is the ids of the trades."""
    replay = claim(unit.connection, call.scope, call.digest)
    if replay is not None:
        return replay
    trade_ids = work()
    return complete(unit.connection, call.scope, status_code=ACCEPTED, resource_id=",".join(trade_ids))


def match_with_house(
    unit: UnitOfWork,
    order_id: str,
    *,
    price: Decimal | None,
    size: Decimal | None,
    limit_only: bool,
    settings: Settings,
) -> list[str]:
    """Execute one order against HOUSE.

    Args:
        price: the order's own limit if None. Never worse for the customer than his limit.
        size: what is left of the order if None.
        limit_only: brokers may only execute at the limit.

    Raises:
        OrderNotOpen, PricesDoNotCross, SizeExceedsRemainder, ValidationFailed: nothing is written.
    """
    row = _open_order(unit, order_id)
    is_buy = row["order_side"] == OrderSide.BUY
    price = row["price"] if price is None else price
    size = row["remaining_size"] if size is None else size
    if (limit_only and price != row["price"]) or (price > row["price"] if is_buy else price < row["price"]):
        raise PricesDoNotCross()
    if size > row["remaining_size"]:
        raise SizeExceedsRemainder()
    _check_scales(unit, row["asset_name"], price=price, size=size)
    return execute(
        unit, [Execution(size, price, **({"buy": row} if is_buy else {"sell": row}))], settings, "match_order"
    )


def cross(
    unit: UnitOfWork,
    buy_order_id: str,
    sell_order_id: str,
    *,
    price: Decimal | None,
    size: Decimal | None,
    settings: Settings,
) -> list[str]:
    """Execute two orders against each other, at the limit of the one that joined first if no price is given.

    Raises:
        OrderNotOpen, PricesDoNotCross, SelfTrade, SizeExceedsRemainder, ValidationFailed: nothing is written.
    """
    buy = _open_order(unit, buy_order_id, "/buy_order_id")
    sell = _open_order(unit, sell_order_id, "/sell_order_id")
    for row, side, pointer in ((buy, OrderSide.BUY, "/buy_order_id"), (sell, OrderSide.SELL, "/sell_order_id")):
        if row["order_side"] != side:
            raise ValidationFailed(errors=[FieldError(pointer, f"This must be a {side} order.")])
    if buy["asset_name"] != sell["asset_name"]:
        raise ValidationFailed(errors=[FieldError("/sell_order_id", "The orders are for different assets.")])
    if buy["beneficial_owner_id"] == sell["beneficial_owner_id"]:
        raise SelfTrade()
    price = default_price(_queued(buy), _queued(sell)) if price is None else price
    if not sell["price"] <= price <= buy["price"]:
        raise PricesDoNotCross()
    remainder = min(buy["remaining_size"], sell["remaining_size"])
    size = remainder if size is None else size
    if size > remainder:
        raise SizeExceedsRemainder()
    _check_scales(unit, buy["asset_name"], price=price, size=size)
    return execute(unit, [Execution(size, price, buy=buy, sell=sell)], settings, "create_cross")


def run(unit: UnitOfWork, asset_name: str | None, *, settings: Settings) -> tuple[list[str], bool]:
    """Sweep the queue of one instrument, or of all, in the policy's order.

    Returns:
        The ids of at most RUN_TRADES_MAX trades, and whether crossing orders are left.
    """
    names = [asset_name] if asset_name else repository.crossed_instruments(unit.connection)
    if not names:
        return [], False
    repository.lock_books(unit.connection, names)
    executions: list[Execution] = []
    more = False
    for name in names:
        room = RUN_TRADES_MAX - len(executions)
        if not room:
            return execute(unit, executions, settings, "run_matching"), True
        found, left = _sweep(unit, name, settings.matching_policy, room)
        executions += found
        more = more or left
    return execute(unit, executions, settings, "run_matching"), more


def _sweep(unit: UnitOfWork, asset_name: str, policy: Policy, room: int) -> tuple[list[Execution], bool]:
    rows = repository.load_crossing(unit.connection, asset_name, policy=policy, limit=room)
    by_id = {row["id"]: row for row in rows}
    orders = sorted((_queued(row) for row in rows), key=sort_key(policy))
    buys = [order for order in orders if order.is_buy]
    sells = [order for order in orders if not order.is_buy]
    matches = sweep(buys, sells, limit=room)
    found = [Execution(m.size, m.price, by_id[m.buy.order_id], by_id[m.sell.order_id]) for m in matches]
    # What was not loaded may cross as well, as long as something was found here.
    truncated = len(buys) >= room or len(sells) >= room
    return found, any_cross(buys, sells) or (truncated and bool(found))


def execute(unit: UnitOfWork, executions: Sequence[Execution], settings: Settings, action: str) -> list[str]:
    """Write trades, their sagas and the queue, and ask for settlement: a fixed number of statements for any number of trades."""
    if not executions:
        return []
    trades: list[Row] = []
    sagas: list[Row] = []
    entries: dict[str, QueueEntry] = {}
    for execution in executions:
        _write_trade(unit, execution, settings, trades, sagas)
        for side in (execution.buy, execution.sell):
            if side is not None:
                entries.setdefault(side["id"], QueueEntry.from_row(side)).take(execution.size)
    repository.insert_trades(unit.connection, trades)
    repository.insert_sagas(unit.connection, sagas)
    repository.update_queue(unit.connection, list(entries.values()))
    fault("matching.written")
    unit.record(
        AdminActed(action=action, subject={"trades": len(trades), "first_trade_id": trades[0]["id"]}),
        aggregate_id=trades[0]["id"],
    )
    return [trade["id"] for trade in trades]


def _write_trade(
    unit: UnitOfWork, execution: Execution, settings: Settings, trades: list[Row], sagas: list[Row]
) -> None:
    side = execution.buy or execution.sell
    assert side is not None
    terms: dict[str, Any] = {
        "asset_name": side["asset_name"],
        "quote_asset": side["quote_asset"],
        "size": execution.size,
        "price": execution.price,
        "buy_order_id": execution.buy["id"] if execution.buy else None,
        "sell_order_id": execution.sell["id"] if execution.sell else None,
        "buyer_id": execution.buy["customer_id"] if execution.buy else None,
        "seller_id": execution.sell["customer_id"] if execution.sell else None,
    }
    trade_id = new_id()
    command = unit.record(SettleTrade(**terms), aggregate_id=trade_id)
    trades.append({"id": trade_id, "organization_id": side["organization_id"], **terms})
    sagas.append(
        {
            "saga_id": trade_id,
            "saga_type": SagaType.TRADE,
            "current_state": TradeSagaState.SETTLING,
            "payload": opening_of(command),
            "awaiting_batch_id": unit.batch_id("asset_service", command),
            "deadline_at": unit.now + settings.saga_answer,
        }
    )


def _open_order(unit: UnitOfWork, order_id: str, pointer: str | None = None) -> Row:
    """The order's row, decided upon under its instrument's lock.

    Raises:
        OrderNotOpen: it is not on the book. ValidationFailed: named in a body by an id that nobody has.
    """
    found = repository.load_queue(unit.connection, [order_id])
    if found:
        repository.lock_books(unit.connection, [found[0]["asset_name"]])
        found = repository.load_queue(unit.connection, [order_id])
    if found and found[0]["on_book"] and not repository.is_over(unit.connection, found[0]["expires_at"]):
        fault("matching.decided")
        return found[0]
    if pointer is not None and repository.find_saga(unit.connection, order_id) is None:
        raise ValidationFailed(errors=[FieldError(pointer, "There is no such order.")])
    raise OrderNotOpen(order_id=order_id)


def _check_scales(unit: UnitOfWork, asset_name: str, *, price: Decimal, size: Decimal) -> None:
    instrument = repository.find_instrument(unit.connection, asset_name)
    if instrument is None:
        raise OrderNotOpen()
    errors = [
        FieldError(f"/{name}", f"This has more than {instrument[scale]} decimals.")
        for name, value, scale in (("price", price, "price_scale"), ("size", size, "size_scale"))
        if not money.fits_scale(value, instrument[scale])
    ]
    if errors:
        raise ValidationFailed(errors=errors)


def _queued(row: Row) -> QueuedOrder:
    return QueuedOrder(
        row["id"],
        row["customer_id"],
        row["beneficial_owner_id"],
        row["order_side"] == OrderSide.BUY,
        row["price"],
        row["priority"],
        row["joined_seq"],
        row["remaining_size"],
    )
