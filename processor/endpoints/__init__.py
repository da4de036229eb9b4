"""HTTP of the processor: matching for admins, trades for everybody, sagas for repair."""

from processor.endpoints import matching, sagas, trades
from shared.http.route import service_router

router = service_router()
router.routes.extend([*matching.router.routes, *trades.router.routes, *sagas.router.routes])
