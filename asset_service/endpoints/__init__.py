"""HTTP routes of asset_service. The name of an endpoint is its operation id, and so its row of permissions."""

from fastapi import APIRouter

from asset_service.endpoints import assets, instruments, ledger, transfers

router = APIRouter()
for part in (transfers.router, assets.router, instruments.router, ledger.router):
    router.routes.extend(part.routes)
