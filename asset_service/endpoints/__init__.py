"""HTTP routes of asset_service. The name of an endpoint is its operation id, and so its row of permissions."""

from fastapi import APIRouter

from asset_service.endpoints import assets, instruments, ledger, transfers
from asset_service.settings import NAME
from shared.http.dead_letters import dead_letter_router

router = APIRouter()
for part in (transfers.router, assets.router, instruments.router, ledger.router, dead_letter_router(NAME)):
    router.routes.extend(part.routes)
