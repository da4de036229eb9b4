"""Tokens, passwords and who I am."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from customer_service.dependencies import CustomerResources, Resources
from customer_service.errors import InvalidCredentials, RefreshTokenReused, SignInElsewhere
from customer_service.schemas import MeRead, PasswordChange, TokenRead
from customer_service.service import api_keys, sessions
from customer_service.service.sessions import Session
from shared.auth import keys, tokens
from shared.auth.caller import CallerContext
from shared.auth.key_set import directory_key_set
from shared.auth.tokens import TokenVerifier
from shared.contracts.message import Actor
from shared.db import Context
from shared.errors import BrokageError, FieldError, InvalidToken, UnknownField, ValidationFailed
from shared.http.caller import Caller, request_state
from shared.http.limits import revoke_command
from shared.http.route import FORM, service_router
from shared.http.valkey import Unavailable
from shared.ids import new_id

T = TypeVar("T")
router = service_router(tags=["sessions"])

_FIELDS_MAX = 16
_VALUE_LENGTH_MAX = 4096
_SECRET_LENGTH_MAX = 256
_FORM_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["password", "refresh_token", "client_credentials"]},
                        "username": {"type": "string"},
                        "password": {"type": "string", "format": "password"},
                        "refresh_token": {"type": "string"},
                        "scope": {"type": "string"},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string", "format": "password"},
                    },
                }
            }
        },
    }
}
_REVOKE_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["token"],
                    "properties": {"token": {"type": "string"}, "token_type_hint": {"type": "string"}},
                }
            }
        },
    }
}


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, as strictly as JSON: UTF-8, none twice.

    Raises:
        ValidationFailed: not such a form.
    """
    try:
        pairs = parse_qsl(
            request_state(request).body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request_state(request).body),
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        raise ValidationFailed("The body is not a form.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UnknownField("A field of the form is repeated.", errors=[FieldError("", "A field is repeated.")])
    for name, value in fields.items():
        if len(value) > _VALUE_LENGTH_MAX or "\x00" in value or "\x00" in name:
            raise ValidationFailed("A value of the form is not valid.")
    return fields


Form = Annotated[dict[str, str], Depends(_form)]


@router.post(
    "/api/auth/token",
    summary="Sign in, or exchange a refresh token",
    openapi_extra={**FORM, **_FORM_SCHEMA},
    response_model_exclude_none=True,
)
async def issue_token(form: Form, resources: Resources, request: Request) -> TokenRead:
    """OAuth2 grants: `password` (with `username`, `password`), `refresh_token` (with `refresh_token`), and for programs
    `client_credentials` (with an API key's `client_id`, `client_secret` and, to be content with less, `scope`)."""
    if resources.external_issuer:
        raise SignInElsewhere()
    _known(form, {"grant_type", "username", "password", "refresh_token", "scope", "client_id", "client_secret"})
    grant = _required(form, "grant_type")
    if grant == "password":
        session = await _sign_in(resources, request, _required(form, "username"), _required(form, "password"))
    elif grant == "refresh_token":
        session = await _refresh(resources, request, _required(form, "refresh_token"))
    elif grant == "client_credentials":
        return await _exchange_key(resources, request, form)
    else:
        allowed = "This must be password, refresh_token or client_credentials."
        raise ValidationFailed(errors=[FieldError("/grant_type", allowed)])
    return await run_in_threadpool(_tokens, resources, session)


@router.post("/api/auth/revoke", summary="Sign out", status_code=204, openapi_extra={**FORM, **_REVOKE_SCHEMA})
async def revoke_token(form: Form, resources: Resources, request: Request) -> Response:
    """End the session of a refresh or access token (RFC 7009). A token that is not known is no error."""
    _known(form, {"token", "token_type_hint", "client_id"})
    await run_in_threadpool(_revoke, resources, _required(form, "token"), _anonymous(request))
    return Response(status_code=204)


@router.post("/api/auth/password", summary="Change the own password", status_code=204)
async def change_password(body: PasswordChange, caller: Caller, resources: Resources) -> Response:
    """Ends all sessions: sign in again with the new one."""
    await _slowed(resources, caller.principal.username)
    change = partial(
        sessions.change_password,
        resources.database,
        resources.passwords,
        caller.customer_id,
        body.current_password,
        body.new_password,
        caller.context(),
    )
    await _hashing(resources, change)
    resources.principals.forget(caller.customer_id)
    return Response(status_code=204)


@router.get("/.well-known/jwks.json", summary="The public keys of access tokens")
def get_jwks(resources: Resources) -> dict[str, list[dict[str, Any]]]:
    return keys.jwks(resources.key_directory)


@router.get("/api/me", summary="Who I am")
async def get_me(caller: Caller) -> MeRead:
    principal = caller.principal
    return MeRead(
        customer_id=principal.customer_id, username=principal.username, role=principal.role, tier=principal.tier
    )


async def _sign_in(resources: CustomerResources, request: Request, username: str, password: str) -> Session:
    await run_in_threadpool(resources.sign_in_limit.check, request_state(request).address)
    name = username.lower()
    await _slowed(resources, name)
    sign_in = partial(
        sessions.sign_in,
        resources.database,
        resources.passwords,
        resources.settings,
        name,
        # Longer ones are nobody's; hashing them would only be work.
        password[: _SECRET_LENGTH_MAX + 1],
        _anonymous(request),
    )
    return await _limited(resources, request, sign_in)


async def _limited(resources: CustomerResources, request: Request, attempt: Callable[[], T]) -> T:
    """Try it, unless too many from this address failed.

    Asked in the very thread that tries, of which there are few: of a crowd that came at once, few go further than the limit.
    """
    address = request_state(request).address

    def judged() -> T:
        resources.sign_in_limit.check(address)
        try:
            return attempt()
        except InvalidCredentials:
            resources.sign_in_limit.count_failure(address)
            raise

    return await _hashing(resources, judged)


async def _exchange_key(resources: CustomerResources, request: Request, form: Mapping[str, str]) -> TokenRead:
    exchange = partial(
        api_keys.sign_in,
        resources.database,
        _required(form, "client_id"),
        _required(form, "client_secret"),
        form.get("scope"),
        _anonymous(request),
    )
    program = await _limited(resources, request, exchange)
    lifetime = resources.settings.access_token_seconds
    if program.seconds_left is not None:
        lifetime = max(1, min(lifetime, program.seconds_left))
    access = await run_in_threadpool(
        lambda: tokens.issue(
            resources.signing_key(),
            customer_id=program.customer_id,
            # One of its own each time: a sign-out ends that one, a revocation all of the key's.
            session_id=new_id(),
            lifetime_seconds=lifetime,
            api_scopes=program.scopes,
            api_key_id=program.key_id,
        )
    )
    return TokenRead(access_token=access, expires_in=lifetime, scope=" ".join(program.scopes))


async def password_checked(resources: CustomerResources, caller: CallerContext, password: str) -> None:
    """Asked for again where a session makes something that outlives it.

    Raises:
        ValidationFailed: at `/current_password`.
    """
    await _slowed(resources, caller.principal.username)
    check = partial(
        sessions.check_password,
        resources.database,
        resources.passwords,
        caller.customer_id,
        password,
        caller.context(),
    )
    await _hashing(resources, check)


async def _slowed(resources: CustomerResources, username: str) -> None:
    await asyncio.sleep(await run_in_threadpool(sessions.slow_down_seconds, resources.database, username))


async def _refresh(resources: CustomerResources, request: Request, token: str) -> Session:
    exchange = partial(sessions.refresh, resources.database, resources.settings, token, _anonymous(request))
    try:
        return await run_in_threadpool(exchange)
    except RefreshTokenReused:
        await run_in_threadpool(_revoke, resources, token, _anonymous(request))
        raise


def _tokens(resources: CustomerResources, session: Session) -> TokenRead:
    lifetime = resources.settings.access_token_seconds
    access = tokens.issue(
        resources.signing_key(),
        customer_id=session.customer_id,
        session_id=session.session_id,
        lifetime_seconds=lifetime,
    )
    return TokenRead(access_token=access, refresh_token=session.refresh_token, expires_in=lifetime)


def _revoke(resources: CustomerResources, token: str, context: Context) -> None:
    session_id, program_of = _session_of(resources, token)
    if session_id is None:
        return
    sessions.sign_out(resources.database, resources.settings, session_id, context, program_of=program_of)
    mark_ended(resources, session_id)


def mark_ended(resources: CustomerResources, session_id: str) -> None:
    """Tell the edge of every process at once what its service's own store will know when the event has arrived."""
    try:
        resources.valkey.command(*revoke_command(session_id, resources.settings.access_token_seconds))
    except Unavailable:
        return


def _session_of(resources: CustomerResources, token: str) -> tuple[str | None, int | None]:
    """The session of a refresh or access token, and whose program's it is, if it is one's."""
    if token.count(".") != 2:
        return sessions.family_of(resources.database, token), None
    try:
        access = TokenVerifier(directory_key_set(resources.key_directory)).verify(token)
    except InvalidToken:
        return None, None
    return access.session_id, access.customer_id if access.api_scopes is not None else None


async def _hashing(resources: CustomerResources, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(resources.hashing, work)


def _anonymous(request: Request) -> Context:
    return Context(actor=Actor(None, "ANONYMOUS"), correlation_id=request_state(request).correlation_id)


def _known(form: Mapping[str, str], names: set[str]) -> None:
    if not form.keys() <= names:
        raise UnknownField(errors=[FieldError("", "A field of the form is not known here.")])


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if not value:
        missing: BrokageError = ValidationFailed(errors=[FieldError(f"/{name}", "This value is required.")])
        raise missing
    return value
