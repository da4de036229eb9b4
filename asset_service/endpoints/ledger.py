"""The ledger, and the proof that it adds up."""

from dataclasses import asdict
from typing import Annotated

from fastapi import Query

from asset_service import repository
from asset_service.dependencies import Resources
from asset_service.schemas import FindingRead, LedgerEntryRead, VerificationRead
from asset_service.service import verification
from shared.db.page import decode_id_cursor, page_of
from shared.http.caller import Caller
from shared.http.fields import CustomerIdText, VisibleId
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["ledger"])


@router.get("/api/ledger/entries", summary="Ledger entries, newest first")
def list_ledger_entries(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
    tx_ref: Annotated[VisibleId | None, Query()] = None,
) -> Collection[LedgerEntryRead]:
    owners = caller.visible_customers(customer_id)
    before_id = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_ledger_entries(
            connection, customer_ids=owners, tx_ref=tx_ref, before_id=before_id, limit=paging.limit + 1
        )
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    return Collection(data=[LedgerEntryRead(**row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/ledger/verify", summary="Whether the ledger is as it was posted and adds up")
def verify_ledger(caller: Caller, resources: Resources) -> VerificationRead:
    found = verification.verify_ledger(resources.database)
    bad = FindingRead(**asdict(found.first_bad)) if found.first_bad else None
    return VerificationRead(valid=found.valid, transactions=found.transactions, entries=found.entries, first_bad=bad)
