"""The auditor in a relay process: reads of the trail are chained, telemetry is moved, refusals are put on record."""

from collections.abc import Sequence

from auditor import documents
from auditor.documents import NAME
from auditor.keeping import Keeping
from auditor.service import chain_intake, record_reports
from auditor.settings import Settings
from auditor.tasks import open_writer, record_refusals
from auditor.telemetry import TelemetryLoop
from shared.messaging import seal
from shared.messaging.broker import Broker
from shared.messaging.refusals import Refusals
from shared.messaging.runtime import Loop, ServiceRelay, Timer
from shared.messaging.seal import TELEMETRY_CHANNEL

_REPORTS_SECONDS = 1.0


def start() -> Sequence[Loop]:
    settings = Settings()
    database = documents.open_database(settings, pool_size=4)
    writer = open_writer(database, settings)
    keeping = Keeping.open(database, settings)
    keeping.require_key()
    seals, refusals = seal.load(settings), Refusals(NAME)
    refusals.tell(NAME, record_refusals(database))
    broker = Broker(settings.queue_url, seals, refusals.note)
    telemetry = TelemetryLoop(
        database,
        settings.redis_url,
        seals,
        lambda: refusals.note(NAME, TELEMETRY_CHANNEL),
        poll_seconds=settings.telemetry_poll_seconds,
    )
    return [
        refusals,
        Timer("auditor reports", _REPORTS_SECONDS, lambda: record_reports(database, broker)),
        Timer("auditor intake", settings.audit_intake_poll_seconds, lambda: chain_intake(database, writer)),
        Timer("audit checkpoints", settings.audit_checkpoint_seconds, keeping.take_checkpoint),
        Timer("audit archive", settings.audit_archive_seconds, keeping.archive_due),
        telemetry,
    ]


relay = ServiceRelay(NAME, start)
