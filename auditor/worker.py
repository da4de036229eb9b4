"""The auditor in a worker process."""

from auditor.documents import NAME
from auditor.tasks import start_consumer
from shared.messaging.runtime import ServiceWorker

worker = ServiceWorker(NAME, start_consumer)
