"""HTTP routes of customer_service. The name of an endpoint is its operation id, and so its row of permissions."""

from fastapi import APIRouter

from customer_service.endpoints import accounts, api_keys, brokers, second_factor, sessions
from customer_service.settings import NAME
from shared.http.dead_letters import dead_letter_router

router = APIRouter()
for part in (
    sessions.router,
    api_keys.router,
    second_factor.router,
    accounts.router,
    brokers.router,
    dead_letter_router(NAME),
):
    router.routes.extend(part.routes)
