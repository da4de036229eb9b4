"""The auditor in a worker process."""

from auditor.documents import NAME
from auditor.tasks import start_consumer
from shared.messaging.runtime import ServiceWorker

# Behind the services that move orders: a trail and a notice may come a moment later.
worker = ServiceWorker(NAME, start_consumer, background=True)
