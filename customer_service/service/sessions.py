"""Signing in and out. A session is a family of refresh tokens: each is used once, and using one twice ends the
family."""

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from customer_service import repository
from customer_service.errors import InvalidCredentials, InvalidRefreshToken, RefreshTokenReused
from customer_service.passwords import Passwords
from customer_service.repository import Row
from customer_service.service.events import record_state
from customer_service.settings import Settings
from shared.auth.ended_sessions import TOKENS_LONGER_SECONDS, ended_sessions_of, put_session_ends
from shared.clock import utc_now
from shared.contracts.customers import CustomerUpdated, SessionEnded, SignInFailed, UserSignedIn
from shared.contracts.message import Actor
from shared.db import Context, Database, UnitOfWork
from shared.errors import FieldError, ValidationFailed
from shared.ids import new_id

FAILURES_FREE = 5
"""Wrong passwords in a row before an account's sign-ins are slowed."""
FAILURES_FORGOTTEN_SECONDS = 900
_SLOWEST_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Session:
    """Signed in. The refresh token is here in clear for the only time."""

    customer_id: int
    session_id: str
    refresh_token: str


def slow_down_seconds(database: Database, username: str) -> float:
    """How long to hold the next sign-in to this account: doubling from half a second after five failures, at most four.

    The owner with the right password waits as long and gets in: slowed, never locked out. Source: contract, Rate
    limits.
    """
    with database.read() as connection:
        failures = repository.recent_failures(
            connection, account_digest(username), forgotten_after_seconds=FAILURES_FORGOTTEN_SECONDS
        )
    if failures < FAILURES_FREE:
        return 0.0
    return min(_SLOWEST_SECONDS, 0.5 * 2.0 ** min(failures - FAILURES_FREE, 10))


def sign_in(
    database: Database, passwords: Passwords, settings: Settings, username: str, password: str, context: Context
) -> Session:
    """Check the password and open a session. Takes as long for a name that nobody has.

    Raises:
        InvalidCredentials: wrong name, wrong password, or a deactivated account; which of them only the audit trail
        says.
    """
    with database.read() as connection:
        found = repository.find_credentials(connection, username)
    good = passwords.matches(found["password_hash"] if found else None, password)
    if found is None or not good or not found["active"]:
        reason = "inactive" if good else "credentials"
        database.run(lambda uow: _record_failure(uow, username, found, reason), context=context)
        raise InvalidCredentials()
    session = _new_session(found["id"])
    new_hash = passwords.hash(password) if passwords.is_outdated(found["password_hash"]) else None

    def work(uow: UnitOfWork) -> bool:
        # The account may have been deactivated since the password was checked, which took long.
        repository.lock_customer(uow.connection, found["id"])
        current = repository.find_credentials_by_id(uow.connection, found["id"])
        if current is None or not current["active"] or current["password_hash"] != found["password_hash"]:
            return False
        if new_hash is not None:
            repository.set_password_hash(
                uow.connection, found["id"], old_hash=found["password_hash"], new_hash=new_hash
            )
        repository.clear_failures(uow.connection, account_digest(username))
        _store(uow, session, settings, family_expires_at=None)
        record_sign_in(uow, found["id"], found["username"])
        return True

    if not database.run(work, context=_as_user(context, found)):
        raise InvalidCredentials()
    return session


def refresh(database: Database, settings: Settings, token: str, context: Context) -> Session:
    """Exchange a refresh token for a new one of the same session.

    Raises:
        InvalidRefreshToken: unknown, expired or signed out.
        RefreshTokenReused: used before; the session is ended, whoever of the two is the thief. `session_id` names it.
    """
    successor = secrets.token_urlsafe(32)

    def work(uow: UnitOfWork) -> Session | str | None:
        found = repository.lock_refresh_token(uow.connection, token_digest(token))
        if found is None:
            return None
        if found["rotated_at"] is not None:
            # Committed before the refusal: raising here would roll the revocation back.
            if repository.revoke_family(uow.connection, found["family_id"]) is not None:
                end_access(uow, settings, found["customer_id"], found["family_id"])
                _record_failed(uow, found["username"], found["customer_id"], "refresh_token_reused")
            family: str = found["family_id"]
            return family
        if found["revoked_at"] is not None or found["expired"] or not found["active"]:
            return None
        repository.mark_rotated(uow.connection, found["digest"])
        session = Session(found["customer_id"], found["family_id"], successor)
        _store(uow, session, settings, family_expires_at=found["family_expires_at"])
        return session

    outcome = database.run(work, context=context)
    if isinstance(outcome, Session):
        return outcome
    if outcome is None:
        raise InvalidRefreshToken()
    raise RefreshTokenReused()


def family_of(database: Database, token: str) -> str | None:
    """The session a refresh token belongs to, whatever its state."""
    with database.read() as connection:
        return repository.find_family(connection, token_digest(token))


def sign_out(
    database: Database, settings: Settings, session_id: str, context: Context, *, program_of: int | None = None
) -> None:
    """End a session: none of its tokens works any more. Ending it again changes nothing.

    Args:
        program_of: whose program's session it is. Its API key goes on, and so do other sessions of that key.
    """

    def work(uow: UnitOfWork) -> None:
        customer_id = repository.revoke_family(uow.connection, session_id) or program_of
        if customer_id is not None and session_id not in ended_sessions_of(uow.connection, customer_id):
            end_access(uow, settings, customer_id, session_id)

    database.run(work, context=context)


def end_access(uow: UnitOfWork, settings: Settings, customer_id: int, session_id: str) -> None:
    """Let no service take the access tokens of a session, or of an API key, any more."""
    until = uow.now + timedelta(seconds=settings.access_token_seconds + TOKENS_LONGER_SECONDS)
    end = SessionEnded(customer_id=customer_id, session_id=session_id, tokens_until=until)
    put_session_ends(uow.connection, [end])
    uow.record(end, aggregate_id=str(customer_id), customer_id=customer_id)


def change_password(
    database: Database, passwords: Passwords, customer_id: int, current: str, new: str, context: Context
) -> None:
    """Set a new password and end every session and access token of the customer.

    Raises:
        ValidationFailed: `current` is not the password; counted as a failed sign-in.
    """
    found = check_password(database, passwords, customer_id, current, context)
    new_hash = passwords.hash(new)

    def work(uow: UnitOfWork) -> bool:
        repository.lock_customer(uow.connection, customer_id)
        before = repository.find_state(uow.connection, customer_id)
        assert before is not None
        if not repository.set_password_hash(
            uow.connection, customer_id, old_hash=found["password_hash"], new_hash=new_hash
        ):
            return False
        repository.revoke_all_sessions(uow.connection, customer_id)
        repository.update_customer(uow.connection, customer_id, {**before, "tokens_valid_from": utc_now()})
        record_state(uow, CustomerUpdated, customer_id, before=before, also_after={"password_changed": True})
        return True

    if not database.run(work, context=context):
        raise _wrong_password()


def check_password(database: Database, passwords: Passwords, customer_id: int, current: str, context: Context) -> Row:
    """The customer's credentials, if `current` is his password: before what outlives a session is made of one.

    Raises:
        ValidationFailed: it is not; counted as a failed sign-in.
    """
    with database.read() as connection:
        found = repository.find_credentials_by_id(connection, customer_id)
    if found is None or not passwords.matches(found["password_hash"], current):
        if found is not None:
            database.run(lambda uow: _record_failure(uow, found["username"], found, "credentials"), context=context)
        raise _wrong_password()
    return found


def account_digest(username: str) -> str:
    return hashlib.sha256(b"account:" + username.encode("utf-8", "replace")).hexdigest()


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _new_session(customer_id: int) -> Session:
    return Session(customer_id, new_id(), secrets.token_urlsafe(32))


def _store(uow: UnitOfWork, session: Session, settings: Settings, *, family_expires_at: Any) -> None:
    repository.insert_refresh_token(
        uow.connection,
        {
            "digest": token_digest(session.refresh_token),
            "family_id": session.session_id,
            "customer_id": session.customer_id,
            "lifetime_seconds": settings.refresh_token_seconds,
            "family_expires_at": family_expires_at
            or repository.family_end(uow.connection, settings.refresh_family_seconds),
        },
    )


def record_sign_in(uow: UnitOfWork, customer_id: int, username: str, api_key_id: str | None = None) -> None:
    event = UserSignedIn(username=username, api_key_id=api_key_id)
    uow.record(event, aggregate_id=str(customer_id), customer_id=customer_id)


def _record_failure(uow: UnitOfWork, username: str, found: Row | None, reason: str) -> None:
    repository.add_failure(uow.connection, account_digest(username), forgotten_after_seconds=FAILURES_FORGOTTEN_SECONDS)
    _record_failed(uow, username, found["id"] if found else None, reason)


def _record_failed(uow: UnitOfWork, username: str, customer_id: int | None, reason: str) -> None:
    digest = account_digest(username)
    uow.record(
        SignInFailed(username_digest=digest, reason=reason),
        aggregate_id=str(customer_id) if customer_id else f"unknown:{digest[:32]}",
        customer_id=customer_id,
    )


def _as_user(context: Context, found: Row) -> Context:
    return replace(context, actor=Actor(found["id"], found["role"]))


def _wrong_password() -> ValidationFailed:
    return ValidationFailed(errors=[FieldError("/current_password", "This is not the password.")])
