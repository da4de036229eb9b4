"""The auditor in a relay process: reads of the trail are chained, telemetry is moved."""

from collections.abc import Sequence

from auditor import documents
from auditor.documents import NAME
from auditor.keeping import Keeping
from auditor.service import chain_intake
from auditor.settings import Settings
from auditor.tasks import open_writer
from auditor.telemetry import TelemetryLoop
from shared.messaging.runtime import Loop, ServiceRelay, Timer


def start() -> Sequence[Loop]:
    settings = Settings()
    database = documents.open_database(settings, pool_size=4)
    writer = open_writer(database, settings)
    keeping = Keeping.open(database, settings)
    keeping.require_key()
    return [
        Timer("auditor intake", settings.audit_intake_poll_seconds, lambda: chain_intake(database, writer)),
        Timer("audit checkpoints", settings.audit_checkpoint_seconds, keeping.take_checkpoint),
        Timer("audit archive", settings.audit_archive_seconds, keeping.archive_due),
        TelemetryLoop(database, settings.redis_url, poll_seconds=settings.telemetry_poll_seconds),
    ]


relay = ServiceRelay(NAME, start)
