"""Balances and what blocks them."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from asset_service import repository
from asset_service.dependencies import Resources
from asset_service.endpoints.cursors import asset_after
from asset_service.schemas import AssetRead, ReservationRead
from shared.db.page import decode_id_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.fields import AssetName, CustomerIdText
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["assets"])


@router.get("/api/assets", summary="What customers own")
def list_assets(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
) -> Collection[AssetRead]:
    owners = caller.visible_customers(customer_id)
    after = asset_after(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_assets(connection, customer_ids=owners, after=after, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["customer_id"], row["asset_name"]])
    return Collection(data=[AssetRead(**row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/assets/{customer_id}/{asset_name}", summary="One asset of a customer")
def get_asset(customer_id: CustomerIdText, asset_name: AssetName, caller: Caller, resources: Resources) -> AssetRead:
    with resources.database.read() as connection:
        row = repository.find_asset(connection, customer_id, asset_name)
    if row is None:
        raise NotFound()
    return AssetRead(**row)


@router.get("/api/reservations", summary="What blocks assets, newest first")
def list_reservations(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
    order_id: Annotated[UUID | None, Query()] = None,
) -> Collection[ReservationRead]:
    owners = caller.visible_customers(customer_id)
    before_id = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_reservations(
            connection,
            customer_ids=owners,
            order_id=str(order_id) if order_id else None,
            before_id=before_id,
            limit=paging.limit + 1,
        )
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    return Collection(data=[ReservationRead(**row) for row in page.data], next_cursor=page.next_cursor)
