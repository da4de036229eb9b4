"""The caller as endpoints take him."""

from typing import Annotated, Any

from fastapi import Depends, Request

from shared.auth.caller import CallerContext
from shared.http.state import SCOPE_KEY, RequestState


def get_caller(request: Request) -> CallerContext:
    """The caller as the route has admitted him (`shared.http.route`); there is none on public routes."""
    caller: Any = request.scope.get("brokage.caller")
    assert isinstance(caller, CallerContext), "a public route has no caller"
    return caller


def get_optional_caller(request: Request) -> CallerContext | None:
    caller: Any = request.scope.get("brokage.caller")
    return caller if isinstance(caller, CallerContext) else None


def request_state(request: Request) -> RequestState:
    state = request.scope[SCOPE_KEY]
    assert isinstance(state, RequestState)
    return state


async def _caller(request: Request) -> CallerContext:
    # A coroutine, so that FastAPI does not send this look-up through the thread pool.
    return get_caller(request)


Caller = Annotated[CallerContext, Depends(_caller)]
"""Endpoint parameter: `def place_order(caller: Caller, ...)`."""
