"""What may be owned and traded, and at which scales."""

from typing import Any

from asset_service import repository
from asset_service.errors import QuoteAssetFixed, unknown_asset
from asset_service.repository import Row
from asset_service.states import InstrumentStatus
from shared.contracts.assets import InstrumentChanged
from shared.db import UnitOfWork
from shared.errors import FieldError, ValidationFailed

PROJECTION_READERS = ("order_service", "processor")
"""Who keeps a projection of instruments. The auditor keeps a trail instead, and must not read of a change twice."""
_REPUBLISH_PAGE = 500
_SAID = ("quote_asset", "size_scale", "price_scale", "status")


def put_instrument(
    uow: UnitOfWork,
    *,
    asset_name: str,
    quote_asset: str | None,
    size_scale: int,
    price_scale: int = 0,
    status: InstrumentStatus = InstrumentStatus.TRADING,
) -> Row:
    """Define an instrument, or cash (without `quote_asset`), or change it; the same again changes and says nothing.

    A change of a cash asset's scale is said of everything that is quoted in it too.

    Raises:
        ValidationFailed: no such quote asset, or `size_scale + price_scale` exceed its scale (of either side's change).
        QuoteAssetFixed: it is quoted in another asset already.
    """
    connection = uow.connection
    repository.lock_instruments(connection)
    before = repository.find_instrument(connection, asset_name)
    if before is not None and before["quote_asset"] != quote_asset:
        raise QuoteAssetFixed()
    values: Row = {
        "asset_name": asset_name,
        "quote_asset": quote_asset,
        "size_scale": size_scale,
        "price_scale": price_scale,
        "status": status.value,
    }
    _check_scales(uow, values)
    if before is not None and all(before[name] == values[name] for name in _SAID):
        return before
    quoted = repository.list_quoted_in(connection, asset_name) if quote_asset is None else []
    repository.upsert_instrument(connection, values)
    repository.insert_system_accounts(connection, asset_name)
    if before is not None and before["size_scale"] != size_scale and quoted:
        repository.touch_instruments(connection, [row["asset_name"] for row in quoted])
        for row in quoted:
            _record(uow, row["asset_name"], before=row)
    return _record(uow, asset_name, before=before)


def republish(uow: UnitOfWork) -> int:
    """Say every instrument again to those who keep a projection; how many. The guard by version makes it harmless."""
    after, count = "", 0
    while rows := repository.list_instruments(uow.connection, after=after, limit=_REPUBLISH_PAGE):
        for row in rows:
            uow.record(
                _changed(row),
                aggregate_id=row["asset_name"],
                aggregate_version=row["version"],
                readers=PROJECTION_READERS,
            )
        after, count = rows[-1]["asset_name"], count + len(rows)
    return count


def _check_scales(uow: UnitOfWork, values: Row) -> None:
    """So that `size * price` is exact at the quote asset's scale. Source: contract, Money."""
    quote_asset = values["quote_asset"]
    if quote_asset is None:
        if values["price_scale"] != 0:
            raise _scale_error("/price_scale", "Cash has no price.")
        for row in repository.list_quoted_in(uow.connection, values["asset_name"]):
            if row["size_scale"] + row["price_scale"] > values["size_scale"]:
                raise _scale_error("/size_scale", "An instrument that is quoted in this asset needs more decimals.")
        return
    quote = repository.find_instrument(uow.connection, quote_asset)
    if quote is None or quote["quote_asset"] is not None or quote_asset == values["asset_name"]:
        raise unknown_asset("/quote_asset")
    if values["size_scale"] + values["price_scale"] > quote["size_scale"]:
        raise _scale_error("/size_scale", "Size and price together have more decimals than the quote asset.")


def _record(uow: UnitOfWork, asset_name: str, *, before: Row | None) -> Row:
    row = repository.find_instrument(uow.connection, asset_name)
    assert row is not None, "an instrument is never deleted"
    names = [*_SAID, "quote_scale"]
    changed = names if before is None else [name for name in names if before[name] != row[name]]
    old: dict[str, Any] | None = None if before is None else {name: before[name] for name in changed}
    uow.record(
        _changed(row, old, {name: row[name] for name in changed}),
        aggregate_id=asset_name,
        aggregate_version=row["version"],
    )
    return row


def _changed(row: Row, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> InstrumentChanged:
    return InstrumentChanged(
        before=before,
        after=after,
        asset_name=row["asset_name"],
        quote_asset=row["quote_asset"],
        size_scale=row["size_scale"],
        price_scale=row["price_scale"],
        quote_scale=row["quote_scale"],
        status=row["status"],
    )


def _scale_error(pointer: str, detail: str) -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(pointer, detail)])
