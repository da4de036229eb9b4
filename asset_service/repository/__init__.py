"""Every SQL statement of asset_service. Nothing here commits."""

from asset_service.repository.balances import (
    credit,
    debit,
    find_asset,
    find_transfer,
    find_transfer_by_reference,
    insert_transfer,
    list_assets,
    list_reservations,
    list_transfers,
    proof_is_taken,
    withdrawn_lately,
)
from asset_service.repository.book import load_assets, load_reservations, load_settlements, store
from asset_service.repository.instruments import (
    find_instrument,
    list_instruments,
    list_quoted_in,
    lock_instruments,
    touch_instruments,
    upsert_instrument,
)
from asset_service.repository.ledger import (
    find_orphan_entry,
    find_unequal_balance,
    insert_postings,
    insert_system_accounts,
    list_ledger_entries,
    read_one_snapshot,
    stream_ledger,
)
from asset_service.repository.rows import PARTITIONS, Row, has_principals, lock_partitions

__all__ = [
    "PARTITIONS",
    "Row",
    "credit",
    "debit",
    "find_asset",
    "find_instrument",
    "find_orphan_entry",
    "find_transfer",
    "find_transfer_by_reference",
    "find_unequal_balance",
    "has_principals",
    "insert_postings",
    "insert_system_accounts",
    "insert_transfer",
    "list_assets",
    "list_instruments",
    "list_ledger_entries",
    "list_quoted_in",
    "list_reservations",
    "list_transfers",
    "load_assets",
    "load_reservations",
    "load_settlements",
    "lock_instruments",
    "lock_partitions",
    "proof_is_taken",
    "read_one_snapshot",
    "store",
    "stream_ledger",
    "touch_instruments",
    "upsert_instrument",
    "withdrawn_lately",
]
