"""Tables of `brokage_assets`, and what their rows may say of themselves."""

import sqlalchemy as sa

from asset_service.states import AccountClass, InstrumentStatus, ReservationStatus, TransferKind
from shared.db.base import AMOUNT, TIMESTAMP, UUID, created_at, new_metadata, one_of, updated_at, version
from shared.ids import ROOT_ORGANIZATION_ID

metadata = new_metadata()


def _organization_id() -> sa.Column[str]:
    return sa.Column("organization_id", UUID, nullable=False, server_default=ROOT_ORGANIZATION_ID)


instruments = sa.Table(
    "instruments",
    metadata,
    sa.Column("asset_name", sa.Text, primary_key=True),
    # Null for cash, which is not traded itself; its `size_scale` is the scale of its amounts.
    sa.Column("quote_asset", sa.Text, sa.ForeignKey("instruments.asset_name")),
    sa.Column("size_scale", sa.Integer, nullable=False),
    sa.Column("price_scale", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default=InstrumentStatus.TRADING.value),
    version(),
    created_at(),
    updated_at(),
    sa.CheckConstraint(one_of("status", InstrumentStatus), name="status"),
    sa.CheckConstraint("size_scale BETWEEN 0 AND 18 AND price_scale BETWEEN 0 AND 18", name="scales"),
    sa.CheckConstraint("quote_asset IS NOT NULL OR price_scale = 0", name="cash"),
    sa.CheckConstraint("quote_asset <> asset_name", name="quote_asset"),
)

# `low_balance` is in an index, so it is written anew only when the threshold is crossed: all other updates stay HOT.
assets = sa.Table(
    "assets",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("customer_id", sa.BigInteger, nullable=False),
    sa.Column("asset_name", sa.Text, sa.ForeignKey(instruments.c.asset_name), nullable=False),
    sa.Column("size", AMOUNT, nullable=False),
    sa.Column("usable_size", AMOUNT, nullable=False),
    # Whether `usable_size` is below a tenth of `size`.
    sa.Column("low_balance", sa.Boolean, nullable=False, server_default=sa.false()),
    _organization_id(),
    version(),
    created_at(),
    updated_at(),
    sa.CheckConstraint("usable_size >= 0 AND usable_size <= size", name="usable_size"),
    sa.Index("idx_assets_customer_name", "customer_id", "asset_name", unique=True),
    sa.Index("idx_assets_low_balance", "customer_id", postgresql_where=sa.text("low_balance")),
    postgresql_with={"fillfactor": "50"},
)

# No foreign key to `assets`: checking it would lock and rewrite the busiest rows of all once more per reservation.
asset_reservations = sa.Table(
    "asset_reservations",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    # Null in a refusal or tombstone, which blocks nothing of anything.
    sa.Column("asset_id", sa.BigInteger),
    sa.Column("customer_id", sa.BigInteger, nullable=False),
    # What is blocked: cash for a BUY. Null in a tombstone, which was left before anybody said what was wanted.
    sa.Column("asset_name", sa.Text),
    sa.Column("order_id", UUID),
    sa.Column("holder_type", sa.Text, nullable=False),
    sa.Column("holder_id", UUID, nullable=False),
    sa.Column("leg", sa.Text, nullable=False),
    # Never changes; `remaining` of it still blocks.
    sa.Column("amount", AMOUNT, nullable=False),
    sa.Column("consumed", AMOUNT, nullable=False, server_default="0"),
    sa.Column("released", AMOUNT, nullable=False, server_default="0"),
    sa.Column("remaining", AMOUNT, sa.Computed("amount - consumed - released", persisted=True)),
    sa.Column("status", sa.Text, nullable=False),
    # Why there never was a block: the recorded answer to a ReserveAsset that was refused, or would be.
    sa.Column("refusal", sa.Text),
    sa.Column("release_reason", sa.Text),
    # What the release gave back, to answer a repeated one; `released` also has the surplus of better prices.
    sa.Column("release_amount", AMOUNT),
    # The order's terms, which decide what a fill costs and how much the rest still needs.
    sa.Column("order_side", sa.Text),
    sa.Column("traded_asset", sa.Text),
    sa.Column("quote_asset", sa.Text),
    sa.Column("quote_scale", sa.Integer),
    sa.Column("limit_price", AMOUNT),
    sa.Column("open_size", AMOUNT),
    sa.Column("filled_notional", AMOUNT, nullable=False, server_default="0"),
    sa.Column("fee_rate", AMOUNT),
    sa.Column("fee_minimum", AMOUNT),
    sa.Column("fee_charged", AMOUNT, nullable=False, server_default="0"),
    _organization_id(),
    version(),
    created_at(),
    updated_at(),
    sa.Column("expires_at", TIMESTAMP),
    sa.UniqueConstraint("holder_type", "holder_id", "leg"),
    sa.CheckConstraint(one_of("status", ReservationStatus), name="status"),
    sa.CheckConstraint("amount >= 0 AND consumed >= 0 AND released >= 0", name="amounts"),
    sa.CheckConstraint("amount - consumed - released >= 0", name="remaining"),
    sa.CheckConstraint("status = 'ACTIVE' OR amount - consumed - released = 0", name="blocks_while_active"),
    sa.CheckConstraint("refusal IS NULL OR (status = 'RELEASED' AND amount = 0)", name="refusal"),
    sa.CheckConstraint("refusal IS NOT NULL OR (asset_id IS NOT NULL AND asset_name IS NOT NULL)", name="asset"),
    sa.Index("idx_asset_reservations_customer_id", "customer_id", "id"),
    # Says nothing of the status, which changes: the few that are overdue are found among those whose time is over.
    sa.Index("idx_asset_reservations_expires_at", "expires_at", postgresql_where=sa.text("expires_at IS NOT NULL")),
    # Half empty: nearly every row is updated once, when it is settled or released, and then finds room beside itself.
    postgresql_with={"fillfactor": "50"},
)

ledger_accounts = sa.Table(
    "ledger_accounts",
    metadata,
    # Says who and what: `customer:7:TRY`, `house:AAPL`. So an entry needs no look-up before it is written.
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("account_class", sa.Text, nullable=False),
    # The customer id as text; null for the system's own accounts.
    sa.Column("owner", sa.Text),
    sa.Column("asset_name", sa.Text, nullable=False),
    _organization_id(),
    created_at(),
    sa.CheckConstraint(one_of("account_class", AccountClass), name="account_class"),
    sa.Index("idx_ledger_accounts_owner", "owner", postgresql_where=sa.text("owner IS NOT NULL")),
)

ledger_transactions = sa.Table(
    "ledger_transactions",
    metadata,
    sa.Column("tx_ref", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source_type", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    # SHA-256 over the canonical legs (`asset_service.ledger.digest`).
    sa.Column("digest", sa.Text, nullable=False),
    created_at(),
)

# No foreign keys: `post` writes a transaction and its legs in one statement, and nothing can change or delete them.
ledger_entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("tx_ref", sa.Text, nullable=False),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("asset_name", sa.Text, nullable=False),
    sa.Column("amount", AMOUNT, nullable=False),
    created_at(),
    sa.CheckConstraint("amount <> 0", name="amount"),
    sa.Index("idx_ledger_entries_tx_ref", "tx_ref"),
    sa.Index("idx_ledger_entries_account_id", "account_id", "id"),
)

transfers = sa.Table(
    "transfers",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("customer_id", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("asset_name", sa.Text, nullable=False),
    sa.Column("amount", AMOUNT, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    # Null when the system did it (seeds).
    sa.Column("placed_by", sa.BigInteger),
    _organization_id(),
    created_at(),
    # Of a second factor, taken once.
    sa.Column("proof_id", UUID),
    sa.UniqueConstraint("customer_id", "kind", "reference"),
    sa.CheckConstraint(one_of("kind", TransferKind), name="kind"),
    sa.CheckConstraint("amount > 0", name="amount"),
    sa.Index("idx_transfers_customer_id", "customer_id", "id"),
    sa.Index("idx_transfers_proof_id", "proof_id", unique=True, postgresql_where=sa.text("proof_id IS NOT NULL")),
)

# The answer to each SettleTrade, to be repeated.
settlements = sa.Table(
    "settlements",
    metadata,
    sa.Column("trade_id", UUID, primary_key=True),
    # Why nothing moved; null when the trade was settled.
    sa.Column("refusal", sa.Text),
    sa.Column("notional", AMOUNT, nullable=False),
    sa.Column("buyer_fee", AMOUNT, nullable=False),
    sa.Column("seller_fee", AMOUNT, nullable=False),
    created_at(),
)
