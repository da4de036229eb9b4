"""The auditor's queue: one consumer over every event; and what the command line asks of it."""

from dataclasses import asdict
from typing import Any

from auditor import documents, service
from auditor.keeping import Keeping, TrailDisagrees
from auditor.service import Auditor
from auditor.settings import Settings
from auditor.writer import ChainWriter
from shared.auth.keys import NoSigningKey
from shared.db.engine import DatabaseUnavailable
from shared.messaging.refusals import Record, message_of
from shared.messaging.runtime import StoreConsumer
from shared.mongo import MongoDatabase, MongoInboxStore


def open_writer(database: MongoDatabase, settings: Settings) -> ChainWriter:
    return ChainWriter(
        database, lease_seconds=settings.audit_lease_seconds, wait_seconds=settings.audit_lease_wait_seconds
    )


def start_consumer() -> StoreConsumer:
    settings = Settings()
    database = documents.open_database(settings, pool_size=settings.worker_pool_size)
    auditor = Auditor(database, open_writer(database, settings))
    store = MongoInboxStore(database, consumer=documents.NAME, handler=auditor.handle)
    return StoreConsumer(store, settings, database.close, record_refusals(database))


def record_refusals(database: MongoDatabase) -> Record:
    return lambda refused: service.record_event(database, message_of(refused))


def verify_from_command_line() -> dict[str, Any]:
    """`brokage audit verify`, of the database in the environment. Put on record like every read of the trail."""
    settings = Settings()
    database = documents.open_database(settings, pool_size=2)
    try:
        service.record_operator_read(database, "verify_audit")
        return asdict(Keeping.open(database, settings).verify())
    finally:
        database.close()


def archive_from_command_line() -> dict[str, Any]:
    """`brokage audit archive`: everything whose time is over, now. `records` is how many; `problem` is why no more."""
    settings = Settings()
    database = documents.open_database(settings, pool_size=2)
    moved, problem = 0, None
    try:
        keeping = Keeping.open(database, settings)
        if keeping.archive is None:
            problem = "BROKAGE_AUDIT_ARCHIVE_DIR is not set"
        keeping.require_key()
        keeping.take_checkpoint()
        while count := keeping.archive_due():
            moved += count
    except TrailDisagrees as error:
        problem = f"the audit trail is not what was vouched for: {error}"
    except (NoSigningKey, DatabaseUnavailable) as error:
        problem = str(error)
    finally:
        database.close()
    return {"records": moved, "problem": problem}
