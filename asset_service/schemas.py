"""HTTP bodies of asset_service."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StrictInt

from asset_service.states import AccountClass, InstrumentStatus, ReservationStatus, TransferKind
from shared.http.fields import AssetName, Body, CustomerId, DecimalText, PositiveDecimal, VisibleId

Scale = Annotated[StrictInt, Field(ge=0, le=18)]


class AssetRead(BaseModel):
    """`usable_size` is what no open order blocks."""

    customer_id: int
    asset_name: str
    size: DecimalText
    usable_size: DecimalText
    version: int
    updated_at: datetime


class ReservationRead(BaseModel):
    """`amount` never changes; `remaining` of it still blocks."""

    id: str
    customer_id: int
    order_id: str | None
    asset_name: str
    amount: DecimalText
    consumed: DecimalText
    released: DecimalText
    remaining: DecimalText
    status: ReservationStatus
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class DepositCreate(Body):
    customer_id: CustomerId
    asset_name: AssetName
    amount: PositiveDecimal
    reference: VisibleId


class WithdrawalCreate(Body):
    customer_id: CustomerId | None = None
    asset_name: AssetName
    amount: PositiveDecimal
    reference: VisibleId


class TransferRead(BaseModel):
    id: str
    kind: TransferKind
    customer_id: int
    asset_name: str
    amount: DecimalText
    reference: str
    placed_by: int | None
    created_at: datetime


class InstrumentWrite(Body):
    """Without `quote_asset` it is cash, and `size_scale` the decimals of its amounts."""

    quote_asset: AssetName | None = None
    size_scale: Scale
    price_scale: Scale = 0
    status: InstrumentStatus = InstrumentStatus.TRADING


class InstrumentRead(BaseModel):
    asset_name: str
    quote_asset: str | None
    size_scale: int
    price_scale: int
    quote_scale: int
    status: InstrumentStatus
    version: int
    updated_at: datetime


class LedgerEntryRead(BaseModel):
    """`amount` is signed: what the account gained is positive."""

    id: str
    tx_ref: str
    kind: str
    source_type: str
    source_id: str
    account_id: str
    account_class: AccountClass
    customer_id: int | None
    asset_name: str
    amount: DecimalText
    created_at: datetime


class FindingRead(BaseModel):
    reason: str
    tx_ref: str | None
    subject: str | None


class VerificationRead(BaseModel):
    valid: bool
    transactions: int
    entries: int
    first_bad: FindingRead | None
