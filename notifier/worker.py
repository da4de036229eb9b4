"""The notifier in a worker process."""

from notifier.documents import NAME
from notifier.tasks import start_consumer
from shared.messaging.runtime import ServiceWorker

# Behind the services that move orders: a trail and a notice may come a moment later.
worker = ServiceWorker(NAME, start_consumer, background=True)
