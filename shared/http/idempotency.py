"""What an endpoint is told of its request's `Idempotency-Key`."""

from typing import Annotated

from fastapi import Depends, Request

from shared.http.caller import get_optional_caller, request_state
from shared.http.state import NO_BODY
from shared.idempotency import IdempotentCall, KeyScope, digest_of


async def _idempotent_call(request: Request) -> IdempotentCall | None:
    state = request_state(request)
    if state.idempotency_key is None:
        return None
    caller = get_optional_caller(request)
    principal = str(caller.customer_id) if caller else f"address:{state.address}"
    document = None if state.document is NO_BODY else state.document
    scope = KeyScope(principal, request.method, state.matched.template, state.idempotency_key)
    return IdempotentCall(scope, digest_of(request.scope["path"], document))


Idempotency = Annotated[IdempotentCall | None, Depends(_idempotent_call)]
"""Endpoint parameter: the request's key and digest, None when it came without a key."""
