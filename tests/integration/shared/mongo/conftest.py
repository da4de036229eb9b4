"""The inbox over a real document server."""

import secrets
from collections.abc import Iterator

import pytest

from shared.mongo import MongoDatabase
from shared.mongo.inbox import inbox_indexes
from shared.testing.servers import LocalMongo


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMongo]:
    server = LocalMongo(tmp_path_factory.mktemp("mongo") / "data.sqlite")
    yield server
    server.stop()


@pytest.fixture
def database(mongo: LocalMongo) -> Iterator[MongoDatabase]:
    """Empty, with the inbox's indexes."""
    name = f"inbox_{secrets.token_hex(6)}"
    database = MongoDatabase(mongo.url, name, indexes=inbox_indexes(kept_seconds=1000))
    yield database
    database.close()
