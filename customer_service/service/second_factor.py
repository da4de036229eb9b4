"""TOTP as a second step (RFC 6238): set up, confirmed, proved and removed. The secret is stored sealed."""

import base64
import secrets
from enum import Enum

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from customer_service import repository
from customer_service.errors import SecondFactorActive, WrongCode
from customer_service.repository import Row
from shared.contracts.customers import SecondFactorChanged
from shared.db import Context, Database, UnitOfWork
from shared.encryption import FieldKeys, Place
from shared.errors import FieldError, RateLimited

STEP_SECONDS = 30
FAILURES_MAX = 10
"""Wrong codes in a row, after which none is taken for a while: a million codes must not be tried."""
PAUSE_SECONDS = 15 * 60
_SECRET_BYTES = 20
_ISSUER = "Brokage"


class _Found(Enum):
    RIGHT = 1
    WRONG = 2
    PAUSED = 3


def enroll(uow: UnitOfWork, customer_id: int, username: str, keys: FieldKeys) -> tuple[str, str]:
    """A new secret in base32, and its `otpauth` address for an authenticator; active with the first right code.

    Raises:
        SecondFactorActive: there is one already.
    """
    repository.lock_customer(uow.connection, customer_id)
    known = repository.lock_second_factor(uow.connection, customer_id)
    if known is not None and known["active"]:
        raise SecondFactorActive()
    raw = secrets.token_bytes(_SECRET_BYTES)
    text = base64.b32encode(raw).decode()
    sealed = keys.seal(text, place_of(customer_id))
    repository.put_second_factor(uow.connection, customer_id, secret=sealed, key_version=keys.current)
    return text, _totp(raw).get_provisioning_uri(username, _ISSUER)


def take(database: Database, customer_id: int, code: str, keys: FieldKeys, context: Context, *, activate: bool) -> None:
    """Take a code, once. `activate` confirms a new secret; otherwise it must be active.

    Raises:
        WrongCode: wrong, of another time, taken before, or there is no second factor.
        RateLimited: ten wrong ones in a row; none is taken for a quarter of an hour.
    """

    def work(uow: UnitOfWork) -> _Found:
        row = repository.lock_second_factor(uow.connection, customer_id)
        if row is None or row["active"] is activate:
            return _Found.WRONG
        if _paused(row, uow):
            return _Found.PAUSED
        step = _step_of(row, code, keys, int(uow.now.timestamp()))
        if step is None:
            # Committed before the refusal: raising here would forget it.
            repository.add_code_failure(uow.connection, customer_id, (row["failures"] % FAILURES_MAX) + 1)
            return _Found.WRONG
        repository.take_code(uow.connection, customer_id, step)
        if activate:
            _record(uow, customer_id, active=True)
        return _Found.RIGHT

    found = database.run(work, context=context)
    if found is _Found.PAUSED:
        raise RateLimited(headers={"Retry-After": str(PAUSE_SECONDS)})
    if found is _Found.WRONG:
        raise WrongCode(errors=[FieldError("/code", "This code is not taken.")])


def remove(uow: UnitOfWork, customer_id: int) -> None:
    """End it; ending it again changes nothing."""
    if repository.delete_second_factor(uow.connection, customer_id):
        _record(uow, customer_id, active=False)


def _paused(row: Row, uow: UnitOfWork) -> bool:
    recent = row["failed_at"] is not None and (uow.now - row["failed_at"]).total_seconds() < PAUSE_SECONDS
    return recent and int(row["failures"]) >= FAILURES_MAX


def _step_of(row: Row, code: str, keys: FieldKeys, now: int) -> int | None:
    """The step whose code it is: this one or a neighbour, but none that was taken or is older than one taken."""
    secret = base64.b32decode(keys.open(row["secret"], row["key_version"], place_of(row["customer_id"])))
    current = now // STEP_SECONDS
    for step in (current, current - 1, current + 1):
        right = secrets.compare_digest(_totp(secret).generate(step * STEP_SECONDS), code.encode())
        if right and step > row["last_step"]:
            return step
    return None


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, 6, SHA1(), STEP_SECONDS)


def place_of(customer_id: int) -> Place:
    return Place("second_factors", customer_id, "secret")


def _record(uow: UnitOfWork, customer_id: int, *, active: bool) -> None:
    uow.record(SecondFactorChanged(active=active), aggregate_id=str(customer_id), customer_id=customer_id)
