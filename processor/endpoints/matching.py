"""Matching by an admin, or by a broker at the limit."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool

from processor import repository
from processor.dependencies import ProcessorResources, Resources
from processor.endpoints.trades import trade_read
from processor.repository import Row
from processor.sagas.order_saga import OrderSagaState
from processor.schemas import CrossCreate, MatchCreate, QueuedOrderRead, RunCreate, RunRead, TradesRead
from processor.service import matching
from processor.states import TradeStatus
from shared.auth.caller import CallerContext
from shared.auth.permissions import Scope
from shared.db import UnitOfWork
from shared.db.page import decode_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.fields import AssetName
from shared.http.idempotency import Idempotency
from shared.http.paging import Collection, Paging
from shared.http.prefer import WaitSeconds, preference_applied
from shared.http.route import idempotency_key, service_router
from shared.idempotency import REPLAYED_HEADERS, IdempotentCall, Replay
from shared.ids import is_id

router = service_router(tags=["matching"])
_ARRIVAL_SECONDS = 2.0
_POLL_SECONDS = 0.02


@router.post(
    "/api/orders/{order_id}/match",
    summary="Execute an order against HOUSE",
    status_code=202,
    openapi_extra=idempotency_key(),
)
async def match_order(
    order_id: str,
    body: MatchCreate,
    caller: Caller,
    resources: Resources,
    call: Idempotency,
    wait: WaitSeconds,
    response: Response,
) -> TradesRead:
    customer_id = await _owner_of(order_id, caller, resources)

    def work(unit: UnitOfWork) -> list[str]:
        return matching.match_with_house(
            unit,
            order_id,
            price=body.price,
            size=body.size,
            limit_only=caller.scope is not Scope.ANY,
            settings=resources.settings,
        )

    replay = await run_in_threadpool(_execute, resources, caller, call, work, customer_id)
    return TradesRead(trades=[trade_read(row, None) for row in await _answer(resources, replay, wait, response)])


@router.post(
    "/api/matching/crosses",
    summary="Execute two orders against each other",
    status_code=202,
    openapi_extra=idempotency_key(),
)
async def create_cross(
    body: CrossCreate, caller: Caller, resources: Resources, call: Idempotency, wait: WaitSeconds, response: Response
) -> TradesRead:
    for order_id in (body.buy_order_id, body.sell_order_id):
        await _arrived(order_id, caller, resources)

    def work(unit: UnitOfWork) -> list[str]:
        return matching.cross(
            unit, body.buy_order_id, body.sell_order_id, price=body.price, size=body.size, settings=resources.settings
        )

    replay = await run_in_threadpool(_execute, resources, caller, call, work, None)
    return TradesRead(trades=[trade_read(row, None) for row in await _answer(resources, replay, wait, response)])


@router.post(
    "/api/matching/run",
    summary="Sweep the queue in the policy's order",
    status_code=202,
    openapi_extra=idempotency_key(),
)
async def run_matching(
    body: RunCreate, caller: Caller, resources: Resources, call: Idempotency, wait: WaitSeconds, response: Response
) -> RunRead:
    more: list[bool] = []

    def work(unit: UnitOfWork) -> list[str]:
        trade_ids, left = matching.run(unit, body.asset_name, settings=resources.settings)
        more[:] = [left]
        return trade_ids

    replay = await run_in_threadpool(_execute, resources, caller, call, work, None)
    rows = await _answer(resources, replay, wait, response)
    if not more:
        more.append(await run_in_threadpool(_crossed, resources, body.asset_name))
    return RunRead(trades=[trade_read(row, None) for row in rows], more=more[0])


@router.get("/api/matching/queue", summary="The book, in the order its orders joined")
def list_matching_queue(
    caller: Caller, resources: Resources, paging: Paging, asset_name: Annotated[AssetName | None, Query()] = None
) -> Collection[QueuedOrderRead]:
    after = decode_cursor(paging.cursor, int)[0] if paging.cursor else None
    with resources.database.read() as connection:
        rows = repository.list_queue(connection, asset_name=asset_name, after=after, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["joined_seq"]])
    return Collection(data=[QueuedOrderRead(**row) for row in page.data], next_cursor=page.next_cursor)


def _execute(
    resources: ProcessorResources,
    caller: CallerContext,
    call: IdempotentCall | None,
    work: Callable[[UnitOfWork], list[str]],
    customer_id: int | None,
) -> Replay:
    assert call is not None, "the route requires a key"

    def first(unit: UnitOfWork) -> list[str]:
        resources.backlog.refuse_when_full()
        return work(unit)

    known = resources.marks.begin(call)
    if known is not None:
        return known
    with resources.marks.held(call) as outcome:
        outcome.replay = resources.database.run(
            lambda unit: matching.once(unit, call, lambda: first(unit)), context=caller.context(customer_id)
        )
    return outcome.replay


async def _answer(resources: ProcessorResources, replay: Replay, wait: int, response: Response) -> list[Row]:
    """The trades as they are now; with `wait`, once none of them is unsettled."""
    if replay.replayed:
        response.headers.update(REPLAYED_HEADERS)
    ids = [trade_id for trade_id in replay.resource_id.split(",") if trade_id]
    rows = await run_in_threadpool(_trades, resources, ids)
    deadline = time.monotonic() + wait
    while any(row["status"] == TradeStatus.SETTLING for row in rows) and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        rows = await run_in_threadpool(_trades, resources, ids)
    response.headers.update(preference_applied(wait))
    return rows


def _trades(resources: ProcessorResources, ids: list[str]) -> list[Row]:
    with resources.database.read() as connection:
        return repository.find_trades(connection, ids)


def _crossed(resources: ProcessorResources, asset_name: str | None) -> bool:
    """Whether orders cross in the instrument, or in any; what a repeated run says of the book as it is now."""
    with resources.database.read() as connection:
        crossed = repository.crossed_instruments(connection)
    return asset_name in crossed if asset_name else bool(crossed)


async def _owner_of(order_id: str, caller: CallerContext, resources: ProcessorResources) -> int:
    """The customer of an order that the caller may match.

    Raises:
        NotFound: there is no such order, or it is not of a customer of his.
    """
    saga = await _arrived(order_id, caller, resources)
    if saga is None:
        raise NotFound()
    return int(saga["payload"]["customer_id"])


async def _arrived(order_id: str, caller: CallerContext, resources: ProcessorResources) -> Row | None:
    """The saga of an order that is the caller's to see. What was just confirmed may still be on its way to the book, and is
    waited for up to 2 s; others' orders as long as those that do not exist, or the delay would tell which is which."""
    if not is_id(order_id):
        return None
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    while True:
        saga = await run_in_threadpool(_saga, resources, order_id, caller)
        on_its_way = saga is None or saga["current_state"] in (OrderSagaState.RESERVING, OrderSagaState.CONFIRMING)
        if not on_its_way or time.monotonic() >= deadline:
            return saga
        await asyncio.sleep(_POLL_SECONDS)


def _saga(resources: ProcessorResources, saga_id: str, caller: CallerContext) -> Row | None:
    with resources.database.read() as connection:
        saga = repository.find_saga(connection, saga_id)
    if saga is None or saga["saga_type"] != "ORDER":
        return None
    return saga if caller.may_see(int(saga["payload"]["customer_id"])) else None
