"""The notifier in a worker process."""

from notifier.documents import NAME
from notifier.tasks import start_consumer
from shared.messaging.runtime import ServiceWorker

worker = ServiceWorker(NAME, start_consumer)
