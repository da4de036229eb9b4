"""HTTP of the processor: matching for admins, trades for everybody, sagas for repair."""

from processor.endpoints import matching, sagas, trades
from processor.settings import NAME
from shared.http.dead_letters import dead_letter_router
from shared.http.route import service_router

router = service_router()
for part in (matching.router, trades.router, sagas.router, dead_letter_router(NAME)):
    router.routes.extend(part.routes)
