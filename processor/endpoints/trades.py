"""Trades."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from processor import repository
from processor.dependencies import Resources
from processor.repository import Row
from processor.schemas import TradeRead
from shared.db.page import decode_id_cursor, page_of
from shared.http.caller import Caller
from shared.http.fields import AssetName, CustomerIdText, UuidText
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["trades"])


@router.get("/api/trades", summary="Trades, newest first")
def list_trades(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    order_id: Annotated[UuidText | None, Query()] = None,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
    asset_name: Annotated[AssetName | None, Query()] = None,
) -> Collection[TradeRead]:
    """A customer sees the order of his own side only: who was on the other is not his to know."""
    customers = caller.visible_customers(customer_id)
    before = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_trades(
            connection,
            order_id=order_id,
            customer_ids=customers,
            asset_name=asset_name,
            before=before,
            limit=paging.limit + 1,
        )
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    seen_as = None if customer_id is None and customers is None else caller.visible_customers()
    return Collection(data=[trade_read(row, seen_as) for row in page.data], next_cursor=page.next_cursor)


def trade_read(row: Row, customer_ids: Sequence[int] | None) -> TradeRead:
    """`customer_ids`: whose orders may be named; None for everybody's."""
    hidden = {
        order: None
        for order, owner in (("buy_order_id", "buyer_id"), ("sell_order_id", "seller_id"))
        if customer_ids is not None and row[owner] not in customer_ids
    }
    return TradeRead(**{**row, **hidden})
