"""Customers, their tiers and their preferences."""

from fastapi import Response

from customer_service import repository
from customer_service.dependencies import CustomerResources, Resources
from customer_service.personal import FIELDS, masked, opened
from customer_service.repository import Row
from customer_service.schemas import (
    CustomerCreate,
    CustomerRead,
    CustomerUpdate,
    PreferencesRead,
    PreferencesWrite,
    TierChange,
    TierRead,
)
from customer_service.service import customers
from customer_service.service.customers import Registration
from shared.auth.permissions import Scope
from shared.db.page import decode_cursor, page_of
from shared.errors import FieldError, NotFound, UnknownField, ValidationFailed
from shared.http.caller import Caller
from shared.http.fields import CustomerIdText
from shared.http.idempotency import Idempotency
from shared.http.paging import Collection, Paging
from shared.http.route import service_router
from shared.idempotency import REPLAYED_HEADERS, Replay

router = service_router(tags=["customers"])
_ADMIN_FIELDS = frozenset({"active", "role"})


@router.post("/api/customers", summary="Register a customer", status_code=201)
def create_customer(
    body: CustomerCreate, caller: Caller, resources: Resources, call: Idempotency, response: Response
) -> CustomerRead:
    replay = resources.marks.begin(call) if call else None
    if replay is None:
        replay = _register(body, caller, resources, call)
    if replay.replayed:
        response.headers.update(REPLAYED_HEADERS)
    return _read(resources, int(replay.resource_id))


def _register(body: CustomerCreate, caller: Caller, resources: CustomerResources, call: Idempotency) -> Replay:
    values = body.model_dump(exclude={"password"})
    personal = {name: values.pop(name) for name in FIELDS}
    registration = Registration(password_hash=resources.passwords.hash(body.password), personal=personal, **values)
    keys = resources.field_keys()
    with resources.marks.held(call) as outcome:
        outcome.replay = resources.database.run(
            lambda uow: customers.register_customer(uow, registration, keys, call), context=caller.context()
        )
    return outcome.replay


@router.get("/api/customers", summary="All customers")
def list_customers(caller: Caller, resources: Resources, paging: Paging) -> Collection[CustomerRead]:
    after_id = decode_cursor(paging.cursor, int)[0] if paging.cursor else 0
    with resources.database.read() as connection:
        rows = repository.list_states(connection, after_id=after_id, limit=paging.limit + 1)
    return customers_page(resources, rows, paging.limit)


@router.get("/api/customers/{customer_id}", summary="A customer")
def get_customer(customer_id: CustomerIdText, caller: Caller, resources: Resources) -> CustomerRead:
    return _read(resources, customer_id)


@router.patch("/api/customers/{customer_id}", summary="Change contact data; as an admin also `active` and `role`")
def update_customer(
    customer_id: CustomerIdText, body: CustomerUpdate, caller: Caller, resources: Resources
) -> CustomerRead:
    values = body.model_dump(exclude_unset=True)
    forbidden = sorted(_ADMIN_FIELDS & values.keys()) if caller.scope is not Scope.ANY else []
    if forbidden:
        raise UnknownField(errors=[FieldError(f"/{name}", "This is not yours to change.") for name in forbidden])
    empty = [name for name in sorted(_ADMIN_FIELDS & values.keys()) if values[name] is None]
    if empty:
        raise ValidationFailed(errors=[FieldError(f"/{name}", "This cannot be null.") for name in empty])
    keys = resources.field_keys()
    row = resources.database.run(
        lambda uow: customers.update_customer(uow, customer_id, values, keys), context=caller.context(customer_id)
    )
    resources.principals.forget(customer_id)
    return _in_clear(resources, row)


@router.put("/api/customers/{customer_id}/tier", summary="Move a customer to another tier")
def set_customer_tier(
    customer_id: CustomerIdText, body: TierChange, caller: Caller, resources: Resources
) -> CustomerRead:
    row = resources.database.run(
        lambda uow: customers.set_tier(uow, customer_id, body.tier), context=caller.context(customer_id)
    )
    resources.principals.forget(customer_id)
    return _in_clear(resources, row)


@router.get("/api/tiers", summary="The tiers")
def list_tiers(caller: Caller, resources: Resources) -> Collection[TierRead]:
    with resources.database.read() as connection:
        rows = repository.list_tiers(connection)
    return Collection(data=[TierRead(**row) for row in rows], next_cursor=None)


@router.get("/api/customers/{customer_id}/notification-preferences", summary="How a customer wants to be notified")
def get_notification_preferences(customer_id: CustomerIdText, caller: Caller, resources: Resources) -> PreferencesRead:
    with resources.database.read() as connection:
        row = repository.find_preferences(connection, customer_id)
    if row is None:
        raise NotFound()
    return PreferencesRead(**row)


@router.put("/api/customers/{customer_id}/notification-preferences", summary="Set it")
def set_notification_preferences(
    customer_id: CustomerIdText, body: PreferencesWrite, caller: Caller, resources: Resources
) -> PreferencesRead:
    row = resources.database.run(
        lambda uow: customers.set_preferences(uow, customer_id, body.model_dump()),
        context=caller.context(customer_id),
    )
    return PreferencesRead(**row)


def customers_page(resources: CustomerResources, rows: list[Row], limit: int) -> Collection[CustomerRead]:
    """Masked: who needs one customer's data in clear asks for him."""
    keys = resources.field_keys()
    page = page_of(rows, limit=limit, key=lambda row: [row["id"]])
    shown = [CustomerRead.model_validate({**row, **masked(keys, row)}) for row in page.data]
    return Collection(data=shown, next_cursor=page.next_cursor)


def _read(resources: CustomerResources, customer_id: int) -> CustomerRead:
    with resources.database.read() as connection:
        row = repository.find_state(connection, customer_id)
    if row is None:
        raise NotFound()
    return _in_clear(resources, row)


def _in_clear(resources: CustomerResources, row: Row) -> CustomerRead:
    return CustomerRead.model_validate({**row, **opened(resources.field_keys(), row)})
