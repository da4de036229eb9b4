"""The auditor on a real document server; each test has a trail of its own."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from own_trail import Trail

from auditor import documents
from auditor.app import create
from auditor.documents import INTAKE, LOGS
from auditor.service import Auditor, chain_intake
from auditor.settings import Settings
from auditor.writer import ChainWriter
from shared.auth import keys, tokens
from shared.messaging import seal
from shared.mongo import MongoDatabase
from shared.testing.servers import LocalMongo, LocalValkey


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMongo]:
    server = LocalMongo(tmp_path_factory.mktemp("mongo") / "data.sqlite")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalValkey]:
    server = LocalValkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def database(mongo: LocalMongo, monkeypatch: pytest.MonkeyPatch) -> Iterator[MongoDatabase]:
    monkeypatch.setattr(documents, "NAME", f"auditor_{secrets.token_hex(6)}")
    opened = documents.open_database(Settings(mongo_url=mongo.url), pool_size=8)
    yield opened
    opened.close()


@pytest.fixture
def trail(database: MongoDatabase) -> Trail:
    return Trail(database, Auditor(database, ChainWriter(database)))


@dataclass
class Api:
    """The service behind its edge, over its own database `auditor`."""

    client: TestClient
    key: Any
    trail: Trail

    def get(self, path: str, customer_id: int | None) -> Any:
        headers = {}
        if customer_id is not None:
            token = tokens.issue(self.key, customer_id=customer_id, session_id="s")
            headers["Authorization"] = f"Bearer {token}"
        return self.client.get(path, headers=headers)

    def chain(self) -> None:
        """What the relay does all the time."""
        while chain_intake(self.trail.database, ChainWriter(self.trail.database)):
            pass
        assert self.trail.database[INTAKE].count_documents({}) == 0

    def reads(self, action: str) -> Sequence[dict[str, Any]]:
        """The records of reads of the trail, the oldest first."""
        self.chain()
        return list(self.trail.database[LOGS].find({"action": action}).sort("seq", 1))


@pytest.fixture(scope="module")
def api(mongo: LocalMongo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("keys")
    keys.ensure(directory)
    seal.ensure(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKAGE_MONGO_URL", mongo.url)
        patch.setenv("BROKAGE_REDIS_URL", "redis://127.0.0.1:1/0")
        patch.setenv("BROKAGE_KEY_DIR", str(directory))
        patch.delenv("BROKAGE_JWKS_URL", raising=False)
        app = create()
        with TestClient(app, raise_server_exceptions=False) as client:
            database = app.state.services["auditor"].database
            yield Api(
                client, keys.load_signing_key(directory), Trail(database, Auditor(database, ChainWriter(database)))
            )
