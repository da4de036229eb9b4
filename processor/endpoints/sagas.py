"""Sagas, for the engineer on call."""

from typing import Annotated

from fastapi import Query

from processor import repository
from processor.dependencies import Resources
from processor.repository import Row
from processor.sagas.order_saga import OrderSagaState
from processor.sagas.trade_saga import TradeSagaState
from processor.schemas import SagaRead
from processor.service.repair import retry_saga as retry
from shared.db.page import decode_id_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.paging import Collection, Paging
from shared.http.route import service_router
from shared.ids import is_id

router = service_router(tags=["sagas"])


@router.get("/api/sagas", summary="Sagas, newest first")
def list_sagas(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    state: Annotated[OrderSagaState | TradeSagaState | None, Query()] = None,
) -> Collection[SagaRead]:
    before = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_sagas(connection, state=state, before=before, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["saga_id"]])
    return Collection(data=[_read(row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/sagas/{saga_id}", summary="A saga, by the id of its order or trade")
def get_saga(saga_id: str, caller: Caller, resources: Resources) -> SagaRead:
    return _find(saga_id, resources)


@router.post("/api/sagas/{saga_id}/retry", summary="Let a saga in NEEDS_HUMAN go on", status_code=202)
def retry_saga(saga_id: str, caller: Caller, resources: Resources) -> SagaRead:
    if not is_id(saga_id):
        raise NotFound()
    resources.database.run(lambda unit: retry(unit, saga_id, settings=resources.settings), context=caller.context())
    return _find(saga_id, resources)


def _find(saga_id: str, resources: Resources) -> SagaRead:
    if not is_id(saga_id):
        raise NotFound()
    with resources.database.read() as connection:
        row = repository.find_saga(connection, saga_id)
    if row is None:
        raise NotFound()
    return _read(row)


def _read(row: Row) -> SagaRead:
    return SagaRead(id=row["saga_id"], **{key: row[key] for key in SagaRead.model_fields if key != "id"})
