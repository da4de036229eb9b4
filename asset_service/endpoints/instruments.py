"""What may be owned and traded."""

from asset_service import repository
from asset_service.dependencies import Resources
from asset_service.endpoints.cursors import name_after
from asset_service.schemas import InstrumentRead, InstrumentWrite
from asset_service.service import instruments
from shared.db.page import page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.fields import AssetName
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["instruments"])


@router.get("/api/instruments", summary="What may be owned and traded")
def list_instruments(caller: Caller, resources: Resources, paging: Paging) -> Collection[InstrumentRead]:
    after = name_after(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_instruments(connection, after=after, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["asset_name"]])
    return Collection(data=[InstrumentRead(**row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/instruments/{asset_name}", summary="An instrument")
def get_instrument(asset_name: AssetName, caller: Caller, resources: Resources) -> InstrumentRead:
    with resources.database.read() as connection:
        row = repository.find_instrument(connection, asset_name)
    if row is None:
        raise NotFound()
    return InstrumentRead(**row)


@router.put("/api/instruments/{asset_name}", summary="Define an instrument, halt it, or let it trade")
def put_instrument(
    asset_name: AssetName, body: InstrumentWrite, caller: Caller, resources: Resources
) -> InstrumentRead:
    row = resources.database.run(
        lambda uow: instruments.put_instrument(uow, asset_name=asset_name, **body.model_dump()),
        context=caller.context(),
    )
    return InstrumentRead(**row)
