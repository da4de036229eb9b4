"""Keys for programs: a random secret, shown once and kept as its digest, that is exchanged for short access tokens."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from customer_service import repository
from customer_service.errors import InvalidCredentials, TooManyApiKeys
from customer_service.repository import Row
from customer_service.service.sessions import end_access, record_sign_in, token_digest
from customer_service.settings import Settings
from shared.auth.permissions import ApiScope
from shared.contracts.customers import ApiKeyCreated, ApiKeyRevoked
from shared.contracts.message import Actor
from shared.db import Context, Database, UnitOfWork
from shared.errors import FieldError, NotFound, ValidationFailed
from shared.ids import is_id, new_id

KEYS_MAX = 20


@dataclass(frozen=True, slots=True)
class Program:
    """Signed in with a key. `seconds_left` until the key expires, None if it does not."""

    customer_id: int
    key_id: str
    scopes: tuple[str, ...]
    seconds_left: int | None


def create_api_key(
    uow: UnitOfWork, customer_id: int, *, name: str, scopes: Sequence[ApiScope], expires_at: datetime | None
) -> tuple[Row, str]:
    """The key and its secret, which is nowhere else from then on.

    Raises:
        TooManyApiKeys: twenty work already.
        ValidationFailed: it would have expired.
    """
    if expires_at is not None and expires_at <= uow.now:
        raise ValidationFailed(errors=[FieldError("/expires_at", "This must be in the future.")])
    repository.lock_customer(uow.connection, customer_id)
    if repository.count_live_api_keys(uow.connection, customer_id) >= KEYS_MAX:
        raise TooManyApiKeys()
    secret = secrets.token_urlsafe(32)
    said = sorted({scope.value for scope in scopes})
    row = repository.insert_api_key(
        uow.connection,
        {
            "id": new_id(),
            "customer_id": customer_id,
            "name": name,
            "digest": token_digest(secret),
            "scopes": said,
            "expires_at": expires_at,
        },
    )
    event = ApiKeyCreated(api_key_id=row["id"], name=name, scopes=tuple(said), expires_at=expires_at)
    uow.record(event, aggregate_id=str(customer_id), customer_id=customer_id)
    return row, secret


def revoke_api_key(uow: UnitOfWork, settings: Settings, customer_id: int, key_id: str) -> None:
    """End a key and the access tokens it was exchanged for; ending it again changes nothing.

    Raises:
        NotFound: the customer has no such key.
    """
    revoked = repository.revoke_api_key(uow.connection, key_id, customer_id) if is_id(key_id) else None
    if revoked is None:
        raise NotFound()
    if revoked:
        uow.record(ApiKeyRevoked(api_key_id=key_id), aggregate_id=str(customer_id), customer_id=customer_id)
        end_access(uow, settings, customer_id, key_id)


def sign_in(database: Database, key_id: str, secret: str, wanted: str | None, context: Context) -> Program:
    """Exchange a key; `wanted` are scopes to be content with, separated by spaces.

    Raises:
        InvalidCredentials: no such key, revoked, expired, another secret, or its owner is deactivated.
        ValidationFailed: a scope is wanted that the key has not.
    """
    with database.read() as connection:
        found = repository.find_live_api_key(connection, key_id) if is_id(key_id) else None
    digest = token_digest(secret)
    if found is None or not hmac.compare_digest(found["digest"], digest) or not found["active"]:
        raise InvalidCredentials()
    scopes = tuple(found["scopes"])
    if wanted is not None:
        if not set(wanted.split()) <= set(scopes):
            raise ValidationFailed(errors=[FieldError("/scope", "The key has not all of these scopes.")])
        scopes = tuple(scope for scope in scopes if scope in wanted.split())
    owner = Context(Actor(found["customer_id"], found["role"]), context.correlation_id)
    database.run(lambda uow: record_sign_in(uow, found["customer_id"], found["username"], key_id), context=owner)
    return Program(found["customer_id"], key_id, scopes, found["seconds_left"])
