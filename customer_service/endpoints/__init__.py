"""HTTP routes of customer_service. The name of an endpoint is its operation id, and so its row of permissions."""

from fastapi import APIRouter

from customer_service.endpoints import accounts, brokers, sessions

router = APIRouter()
for part in (sessions.router, accounts.router, brokers.router):
    router.routes.extend(part.routes)
