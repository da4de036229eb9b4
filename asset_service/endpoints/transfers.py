"""Deposits and withdrawals."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Response

from asset_service import repository
from asset_service.dependencies import AssetResources, Resources
from asset_service.schemas import DepositCreate, TransferRead, WithdrawalCreate
from asset_service.service import transfers
from shared.auth.caller import CallerContext
from shared.auth.second_factor import ProofHeader, verify_proof
from shared.db import UnitOfWork
from shared.db.page import decode_id_cursor, page_of
from shared.http.caller import Caller
from shared.http.fields import CustomerIdText
from shared.http.idempotency import Idempotency
from shared.http.paging import Collection, Paging
from shared.http.route import idempotency_key, service_router
from shared.idempotency import REPLAYED_HEADERS, IdempotentCall, Replay

router = service_router(tags=["transfers"])
_KEY = idempotency_key(unless="reference")


@router.post("/api/assets/deposit", summary="Deposit for a customer", status_code=201, openapi_extra=_KEY)
def deposit(
    body: DepositCreate, caller: Caller, resources: Resources, call: Idempotency, response: Response
) -> TransferRead:
    def work(uow: UnitOfWork) -> Replay:
        return transfers.deposit(uow, **body.model_dump(), call=call)

    return _transfer(body.customer_id, work, caller, resources, call, response)


@router.post("/api/assets/withdraw", summary="Withdraw", status_code=201, openapi_extra=_KEY)
def withdraw(
    body: WithdrawalCreate,
    caller: Caller,
    resources: Resources,
    call: Idempotency,
    response: Response,
    second_factor: ProofHeader = None,
) -> TransferRead:
    """Beyond what `BROKAGE_SECOND_FACTOR_ABOVE` allows in 24 hours, 403 `second-factor-required` until the caller sends
    a proof of his second factor in `X-Second-Factor`; each is good for one withdrawal."""
    proof = verify_proof(second_factor, caller.customer_id, resources.keys) if second_factor else None
    customer_id = caller.customer_id if body.customer_id is None else body.customer_id

    def work(uow: UnitOfWork) -> Replay:
        values = {**body.model_dump(), "customer_id": customer_id}
        free = resources.settings.second_factor_above.get(body.asset_name)
        return transfers.withdraw(uow, **values, call=call, free=free, proof=proof)

    return _transfer(customer_id, work, caller, resources, call, response)


@router.get("/api/transfers", summary="Deposits and withdrawals, newest first")
def list_transfers(
    caller: Caller,
    resources: Resources,
    paging: Paging,
    customer_id: Annotated[CustomerIdText | None, Query()] = None,
) -> Collection[TransferRead]:
    owners = caller.visible_customers(customer_id)
    before_id = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_transfers(connection, customer_ids=owners, before_id=before_id, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    return Collection(data=[TransferRead(**row) for row in page.data], next_cursor=page.next_cursor)


def _transfer(
    customer_id: int,
    work: Callable[[UnitOfWork], Replay],
    caller: CallerContext,
    resources: AssetResources,
    call: IdempotentCall | None,
    response: Response,
) -> TransferRead:
    caller.require_customer(customer_id)
    replay = resources.marks.begin(call) if call else None
    if replay is None:
        with resources.marks.held(call) as outcome:
            outcome.replay = resources.database.run(work, context=caller.context(customer_id))
        replay = outcome.replay
    response.status_code = replay.status_code
    if replay.replayed:
        response.headers.update(REPLAYED_HEADERS)
    with resources.database.read() as connection:
        row = repository.find_transfer(connection, replay.resource_id)
    assert row is not None, "a transfer is never deleted"
    return TransferRead(**row)
