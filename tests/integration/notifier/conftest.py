"""The notifier on a real document server; its consumer, its API and a mail server in this process."""

import email
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message as Email
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from fastapi.testclient import TestClient

from notifier import documents
from notifier.app import create
from notifier.documents import NOTIFICATIONS
from notifier.service import Notifier
from notifier.settings import Settings
from shared.auth import keys, tokens
from shared.messaging import seal
from shared.mongo import MongoDatabase
from shared.testing.servers import LocalMongo


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMongo]:
    server = LocalMongo(tmp_path_factory.mktemp("mongo") / "data.sqlite")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database(mongo: LocalMongo) -> Iterator[MongoDatabase]:
    """Shared by all tests: each has its own customers."""
    opened = documents.open_database(Settings(mongo_url=mongo.url), pool_size=4)
    yield opened
    opened.close()


@pytest.fixture
def settings(mongo: LocalMongo) -> Settings:
    return Settings(mongo_url=mongo.url)


@pytest.fixture
def notifier(database: MongoDatabase, settings: Settings) -> Notifier:
    return Notifier(database, settings)


@pytest.fixture
def found(database: MongoDatabase) -> Callable[[int], list[dict[str, Any]]]:
    """A customer's notifications as they are stored, the oldest first."""
    return lambda customer_id: list(database[NOTIFICATIONS].find({"customer_id": customer_id}).sort("_id", 1))


@dataclass
class Mailbox:
    """A mail server that keeps what it gets, after refusing as often as a test wants."""

    received: list[Email] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """What it says to the next messages instead of taking them."""
    rejected_ids: list[str] = field(default_factory=list)
    refused_addresses: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refused_addresses:
            return self.refused_addresses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content)
        if self.answers:
            self.rejected_ids.append(message["Message-ID"])
            return self.answers.pop(0)
        self.received.append(message)
        self.recipients += envelope.rcpt_tos
        return "250 taken"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(mailbox: Mailbox) -> Iterator[Controller]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=_free_port())
    controller.start()
    yield controller
    controller.stop()


@pytest.fixture
def mail_settings(mongo: LocalMongo, smtp: Controller) -> Settings:
    """Pauses so short that a test can wait for them."""
    return Settings(
        mongo_url=mongo.url,
        smtp_url=f"smtp://127.0.0.1:{smtp.port}",
        smtp_from="Brokage <no-reply@brokage.test>",
        email_attempts_max=3,
        email_pause_seconds=0.2,
        email_poll_seconds=0.01,
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@dataclass
class Api:
    client: TestClient
    key: Any

    def call(self, method: str, path: str, customer_id: int | None) -> Any:
        headers = {}
        if customer_id is not None:
            token = tokens.issue(self.key, customer_id=customer_id, session_id="s")
            headers["Authorization"] = f"Bearer {token}"
        return self.client.request(method, path, headers=headers)


@pytest.fixture(scope="module")
def api(mongo: LocalMongo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Without Valkey: the edge then limits by itself."""
    directory: Path = tmp_path_factory.mktemp("keys")
    keys.ensure(directory)
    seal.ensure(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKAGE_MONGO_URL", mongo.url)
        patch.setenv("BROKAGE_REDIS_URL", "redis://127.0.0.1:1/0")
        patch.setenv("BROKAGE_KEY_DIR", str(directory))
        patch.delenv("BROKAGE_JWKS_URL", raising=False)
        with TestClient(create(), raise_server_exceptions=False) as client:
            yield Api(client, keys.load_signing_key(directory))


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "did not happen within 10 s"
            time.sleep(0.02)

    return wait
