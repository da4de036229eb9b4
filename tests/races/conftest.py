"""One arena for all races, with databases of its own on the servers of the run."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.servers import DATABASES
from processor.settings import Settings as ProcessorSettings
from shared.db import Database
from shared.mongo import MongoDatabase
from shared.testing.pump import SOURCES, Pump
from shared.testing.servers import LocalMongo
from tests.conftest import Servers
from tests.races.arena import CONTENDERS_MAX, Arena


@pytest.fixture(scope="package")
def arena(servers: Servers) -> Iterator[Arena]:
    urls = {service: servers.fresh_database(service) for service in DATABASES}
    names = {service: urlsplit(url).path.removeprefix("/") for service, url in urls.items()}
    # Workers take many messages at once here; each needs a connection.
    environment = {**servers.env, "BROKAGE_WORKER_POOL_SIZE": str(CONTENDERS_MAX // 2)}
    environment.update({DATABASES[service][1]: url for service, url in urls.items()})
    databases = {service: Database(url, name="races", pool_size=CONTENDERS_MAX // 2) for service, url in urls.items()}
    settings = ProcessorSettings(processor_database_url=urls["processor"])
    with Pump(environment, tuple(SOURCES)) as pump:
        arena = Arena(environment, databases, pump, settings, lambda service: servers.postgres.connect(names[service]))
        arena.open()
        yield arena
    for database in databases.values():
        database.close()


@pytest.fixture
def outbox_database(servers: Servers) -> Iterator[Database]:
    """A service's database whose outbox nobody else reads."""
    database = Database(servers.fresh_database("customer_service"), name="races", pool_size=CONTENDERS_MAX)
    yield database
    database.close()


@pytest.fixture
def audit_url(tmp_path: Path) -> Iterator[str]:
    mongo = LocalMongo(tmp_path / "documents")
    yield mongo.url
    mongo.stop()


@pytest.fixture
def audit_database(audit_url: str) -> Iterator[MongoDatabase]:
    from auditor import documents
    from auditor.settings import Settings

    database = documents.open_database(Settings(mongo_url=audit_url), pool_size=CONTENDERS_MAX)
    yield database
    database.close()
