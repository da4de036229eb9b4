"""HTTP routes of order_service. The name of an endpoint is its operation id, and so its row of permissions."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from order_service import repository
from order_service.dependencies import OrderResources, Resources
from order_service.repository import Row
from order_service.schemas import OrderCreate, OrderHistoryRead, OrderId, OrderRead, order_json, order_read
from order_service.service import acceptance
from order_service.service.canceling import cancel_order as request_cancelation
from order_service.service.lifetime import expires_at
from order_service.service.placing import Claim, Outcome, find_first
from order_service.settings import NAME
from order_service.states import OrderStatus, TimeInForce
from order_service.waiting import is_final, is_judged
from shared.auth.caller import CallerContext
from shared.auth.permissions import Scope
from shared.contracts.orders import OrderSide
from shared.db.page import InvalidCursor, decode_cursor, page_of
from shared.errors import BrokageError, FieldError, NotFound, ValidationFailed
from shared.http.caller import Caller
from shared.http.dead_letters import dead_letter_router
from shared.http.fields import AssetName, CustomerIdText, Timestamp, VisibleId
from shared.http.idempotency import Idempotency
from shared.http.paging import Collection, Paging, require_period
from shared.http.prefer import WaitSeconds, preference_applied
from shared.http.route import idempotency_key, service_router
from shared.idempotency import REPLAYED_HEADERS
from shared.ids import is_id

router = service_router(tags=["orders"])
router.routes.extend(dead_letter_router(NAME).routes)

OrderIdPath = Annotated[OrderId, Path()]


@router.post(
    "/api/orders",
    summary="Place an order",
    status_code=201,
    response_model=OrderRead,
    openapi_extra=idempotency_key(unless="client_order_id"),
)
async def place_order(
    body: OrderCreate, caller: Caller, resources: Resources, call: Idempotency, wait: WaitSeconds
) -> Response:
    """201 with the order, which the saga then reserves for and confirms or rejects. `Prefer: wait=N` holds the answer
    until it has."""
    customer = await acceptance.ordering_customer(body, caller)
    claim = acceptance.claim_of(body, customer.customer_id, caller.customer_id, call)
    with resources.running_keys.held(call):
        try:
            resources.backlog.refuse_when_full()
            now = await _business_time(resources) if body.time_in_force is not TimeInForce.GTC else None
            instrument = acceptance.refuse_impossible(body, await resources.instruments.find(body.asset_name), now)
            end = expires_at(body.time_in_force, body.expires_at, now, resources.market) if now else None
            order = acceptance.new_order(body, instrument, customer, caller, claim, end)
        except BrokageError as refusal:
            # What was accepted once is answered again, even if today it would be refused.
            outcome = await run_in_threadpool(_first_answer, resources, claim, refusal)
        else:
            outcome = await resources.placing.submit(order)
    if isinstance(outcome, BrokageError):
        raise outcome
    row = await resources.waiters.wait(outcome.row, wait, is_judged)
    headers = {"Location": f"/api/orders/{row['id']}", **preference_applied(wait)}
    if outcome.replayed:
        headers.update(REPLAYED_HEADERS)
    return _order_response(row, outcome.status_code, headers)


@router.get("/api/orders", summary="Orders, the newest first")
def list_orders(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
    status: Annotated[OrderStatus | None, Query()] = None,
    asset_name: Annotated[AssetName | None, Query()] = None,
    order_side: Annotated[OrderSide | None, Query()] = None,
    created_from: Annotated[Timestamp | None, Query()] = None,
    created_to: Annotated[Timestamp | None, Query()] = None,
) -> Collection[OrderRead]:
    """Accepted from `created_from` on and before `created_to`. Without `customer_id` a broker sees the orders of all his
    customers."""
    require_period(created_from, created_to, end_name="created_to")
    after = _decode_position(paging.cursor) if paging.cursor else None
    customer_ids = caller.visible_customers(customer_id)
    filters = {
        "status": status,
        "asset_name": asset_name,
        "order_side": order_side,
        "created_from": created_from,
        "created_to": created_to,
    }
    with resources.database.read() as connection:
        rows = repository.list_orders(
            connection,
            customer_ids=customer_ids,
            filters=filters,
            after=after,
            limit=paging.limit + 1,
        )
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["created_at"].isoformat(), row["id"]])
    return Collection(data=[order_read(row) for row in page.data], next_cursor=page.next_cursor)


# Before the paths with an order's id: `by-client-id` is none, but it would fit there.
@router.get("/api/orders/by-client-id/{client_order_id}", summary="The order of a client_order_id")
def get_order_by_client_id(
    client_order_id: Annotated[VisibleId, Path()],
    caller: Caller,
    resources: Resources,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
    placed_by: Annotated[CustomerIdText | None, Query()] = None,
) -> OrderRead:
    """`customer_id` and `placed_by` are the caller unless said otherwise."""
    if customer_id is None and caller.scope is not Scope.OWN:
        raise ValidationFailed(errors=[FieldError("/query/customer_id", "This value is required.")])
    customer = caller.require_customer(customer_id or caller.customer_id, "query")
    with resources.database.read() as connection:
        row = repository.find_order_by_client_id(
            connection,
            customer_id=customer.customer_id,
            placed_by=placed_by or caller.customer_id,
            client_order_id=client_order_id,
        )
    if row is None:
        raise NotFound()
    return order_read(row)


@router.get("/api/orders/{order_id}", summary="An order")
def get_order(order_id: OrderIdPath, caller: Caller, resources: Resources) -> OrderRead:
    return order_read(_visible_order(resources, caller, order_id))


@router.get("/api/orders/{order_id}/events", summary="The history of an order, from its beginning")
def list_order_events(
    order_id: OrderIdPath, caller: Caller, resources: Resources, paging: Paging
) -> Collection[OrderHistoryRead]:
    _visible_order(resources, caller, order_id)
    after_seq = _decode_seq(paging.cursor) if paging.cursor else 0
    with resources.database.read() as connection:
        rows = repository.list_history(connection, order_id, after_seq=after_seq, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["seq"]])
    return Collection(data=[OrderHistoryRead(**row) for row in page.data], next_cursor=page.next_cursor)


@router.delete("/api/orders/{order_id}", summary="Cancel an order", status_code=202, response_model=OrderRead)
async def cancel_order(order_id: OrderIdPath, caller: Caller, resources: Resources, wait: WaitSeconds) -> Response:
    """202: the cancelation is asked for; a fill that is on its way may still win. 200: it was canceled or had expired
    already. `Prefer: wait=N` holds the answer until the order is final."""
    row, gone = await run_in_threadpool(_request_cancelation, resources, caller, order_id)
    row = await resources.waiters.wait(row, wait, is_final)
    return _order_response(row, 200 if gone else 202, preference_applied(wait))


async def _business_time(resources: OrderResources) -> datetime:
    # Now and then this asks the database, which the event loop must not wait for.
    return await run_in_threadpool(resources.database.clock.now)


def _request_cancelation(resources: OrderResources, caller: CallerContext, order_id: str) -> tuple[Row, bool]:
    # Whose it is never changes, so it is judged outside the transaction.
    order = _visible_order(resources, caller, order_id)
    done = resources.database.run(
        lambda uow: request_cancelation(uow, order_id), context=caller.context(order["customer_id"])
    )
    return done.row, done.gone


def _visible_order(resources: OrderResources, caller: CallerContext, order_id: str) -> Row:
    with resources.database.read() as connection:
        row = repository.find_order(connection, order_id)
    if row is None or not caller.may_see(row["customer_id"]):
        raise NotFound()
    return row


def _first_answer(resources: OrderResources, claim: Claim, refusal: BrokageError) -> Outcome:
    with resources.database.read() as connection:
        return find_first(connection, claim) or refusal


def _order_response(row: Row, status_code: int, headers: dict[str, str]) -> Response:
    return Response(order_json(row), status_code, headers, media_type="application/json")


def _decode_position(cursor: str) -> tuple[datetime, str]:
    at, order_id = decode_cursor(cursor, str, str)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise InvalidCursor from None
    if moment.tzinfo is None or not is_id(order_id):
        raise InvalidCursor
    return moment, order_id


def _decode_seq(cursor: str) -> int:
    seq: int = decode_cursor(cursor, int)[0]
    if not 0 <= seq < 2**31:
        raise InvalidCursor
    return seq
