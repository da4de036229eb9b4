"""API keys, for the programs of their owner."""

from functools import partial

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from customer_service import repository
from customer_service.dependencies import Resources
from customer_service.endpoints.sessions import mark_ended, password_checked
from customer_service.repository import Row
from customer_service.schemas import ApiKeyCreate, ApiKeyCreated, ApiKeyRead, OwnApiKeyRead
from customer_service.service import api_keys
from shared.auth.permissions import operations_of
from shared.db.page import decode_id_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller, request_state
from shared.http.paging import Collection, Paging
from shared.http.route import service_router

router = service_router(tags=["api keys"])


@router.post("/api/api-keys", summary="Make a key for a program", status_code=201)
async def create_api_key(body: ApiKeyCreate, caller: Caller, resources: Resources) -> ApiKeyCreated:
    """The program signs in with `grant_type=client_credentials`, the key's id and its secret, which only this answer
    has."""
    await password_checked(resources, caller, body.current_password)
    work = partial(
        api_keys.create_api_key,
        customer_id=caller.customer_id,
        name=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
    )
    row, secret = await run_in_threadpool(resources.database.run, work, context=caller.context())
    return ApiKeyCreated(**_read(row).model_dump(), secret=secret)


@router.get("/api/api-keys", summary="My keys, the oldest first")
def list_api_keys(caller: Caller, resources: Resources, paging: Paging) -> Collection[ApiKeyRead]:
    after_id = decode_id_cursor(paging.cursor)
    with resources.database.read() as connection:
        rows = repository.list_api_keys(connection, caller.customer_id, after_id=after_id, limit=paging.limit + 1)
    page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
    return Collection(data=[_read(row) for row in page.data], next_cursor=page.next_cursor)


@router.get("/api/api-keys/self", summary="What the key that asks may do")
def get_own_api_key(caller: Caller, resources: Resources, request: Request) -> OwnApiKeyRead:
    """For programs; a person, who needs no key, gets 404. `scopes` are those of the access token."""
    token = request_state(request).token
    if token is None or token.api_scopes is None or token.api_key_id is None:
        raise NotFound("You did not sign in with an API key.")
    with resources.database.read() as connection:
        row = repository.find_live_api_key(connection, token.api_key_id)
    if row is None:
        raise NotFound()
    operations = operations_of(caller.role, token.api_scopes)
    own = {**_read(row).model_dump(), "scopes": sorted(token.api_scopes)}
    return OwnApiKeyRead(**own, customer_id=caller.customer_id, role=caller.role, operations=operations)


@router.delete("/api/api-keys/{key_id}", summary="Revoke a key", status_code=204)
def revoke_api_key(key_id: str, caller: Caller, resources: Resources) -> Response:
    """Also the access tokens that were exchanged for it."""
    resources.database.run(
        lambda uow: api_keys.revoke_api_key(uow, resources.settings, caller.customer_id, key_id),
        context=caller.context(),
    )
    mark_ended(resources, key_id)
    resources.principals.forget(caller.customer_id)
    return Response(status_code=204)


def _read(row: Row) -> ApiKeyRead:
    return ApiKeyRead(**{name: row[name] for name in ApiKeyRead.model_fields})
