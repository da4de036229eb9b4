"""One town for all plants, with databases and documents of its own on the servers of the run."""

from collections.abc import Iterator

import pytest

from infra.servers import DATABASES
from processor.settings import Settings as ProcessorSettings
from shared.db import Database
from shared.testing.servers import LocalMongo
from tests.conftest import Servers
from tests.faults.planted.town import Messengers, Town


@pytest.fixture(scope="package")
def open_town(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    mongo = LocalMongo(tmp_path_factory.mktemp("planted") / "documents")
    urls = {service: servers.fresh_database(service) for service in DATABASES}
    environment = {**servers.env, "BROKAGE_MONGO_URL": mongo.url}
    environment.update({DATABASES[service][1]: url for service, url in urls.items()})
    databases = {service: Database(url, name="planted", pool_size=4) for service, url in urls.items()}
    settings = ProcessorSettings(processor_database_url=urls["processor"])
    with Messengers(environment) as messengers:
        yield Town(servers.embedded, databases, messengers, settings, settings=environment)
    for database in databases.values():
        database.close()
    mongo.stop()


@pytest.fixture
def town(open_town: Town) -> Iterator[Town]:
    """Empty, with cash and one share to trade."""
    open_town.open()
    yield open_town
    while open_town.mending:
        open_town.mending.pop()()
