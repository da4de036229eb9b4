"""Brokers, and whom they act for."""

from fastapi import Response

from customer_service import repository
from customer_service.dependencies import Resources
from customer_service.endpoints.accounts import customers_page
from customer_service.schemas import AssignmentCreate, AssignmentRead, BrokerRead, CustomerRead
from customer_service.service import customers
from shared.auth.permissions import Role, Scope
from shared.db.page import decode_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.fields import CustomerIdText
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["brokers"])


@router.get("/api/brokers", summary="The brokers; a broker sees himself")
def list_brokers(caller: Caller, resources: Resources, paging: Paging) -> Collection[BrokerRead]:
    after_id = decode_cursor(paging.cursor, int)[0] if paging.cursor else 0
    only_id = None if caller.scope is Scope.ANY else caller.customer_id
    with resources.database.read() as connection:
        rows = repository.list_brokers(connection, only_id=only_id, after_id=after_id, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    return Collection(data=[BrokerRead(**row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/brokers/{broker_id}/customers", summary="Whom a broker acts for")
def list_broker_customers(
    broker_id: CustomerIdText, caller: Caller, resources: Resources, paging: Paging
) -> Collection[CustomerRead]:
    after_id = decode_cursor(paging.cursor, int)[0] if paging.cursor else 0
    with resources.database.read() as connection:
        broker = repository.find_state(connection, broker_id)
        if broker is None or broker["role"] != Role.BROKER:
            raise NotFound()
        rows = repository.list_broker_customers(connection, broker_id, after_id=after_id, limit=paging.limit + 1)
    return customers_page(resources, rows, paging.limit)


@router.post("/api/brokers/{broker_id}/customers", summary="Let a broker act for a customer", status_code=201)
def assign_broker_customer(
    broker_id: CustomerIdText, body: AssignmentCreate, caller: Caller, resources: Resources
) -> AssignmentRead:
    row = resources.database.run(
        lambda uow: customers.assign_broker_customer(uow, broker_id, body.customer_id),
        context=caller.context(body.customer_id),
    )
    resources.principals.forget(body.customer_id)
    return AssignmentRead(**row)


@router.delete("/api/brokers/{broker_id}/customers/{customer_id}", summary="End it", status_code=204)
def unassign_broker_customer(
    broker_id: CustomerIdText, customer_id: CustomerIdText, caller: Caller, resources: Resources
) -> Response:
    resources.database.run(
        lambda uow: customers.unassign_broker_customer(uow, broker_id, customer_id),
        context=caller.context(customer_id),
    )
    resources.principals.forget(customer_id)
    return Response(status_code=204)
