"""What the endpoints depend on: the open resources of this service in this process."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from customer_service import repository
from customer_service.passwords import Passwords
from customer_service.settings import NAME, Settings
from customer_service.sign_in_limit import SignInLimit
from shared import encryption
from shared.app import service_resources
from shared.auth.keys import SigningKey, load_signing_key
from shared.auth.principals import CachedDirectory, Principal, principals_of
from shared.db import Database
from shared.encryption import FieldKeys
from shared.http.valkey import Valkey
from shared.idempotency import IdempotencyMarks
from shared.messaging.backlog import Backlog
from shared.messaging.dead_letters import PostgresDeadLetters

_HASHING_THREADS = 2


class CustomerResources:
    """The database, Valkey and keys, open while the process serves."""

    def __init__(self, settings: Settings, *, external_issuer: bool = False) -> None:
        self.settings = settings
        self.external_issuer = external_issuer
        # Refused at the start without usable keys, not at the first customer.
        self.field_keys()
        self.database = Database(settings.customers_database_url, name=NAME, pool_size=settings.api_pool_size)
        self.valkey = Valkey(settings.redis_url)
        self.marks = IdempotencyMarks(self.valkey)
        self.sign_in_limit = SignInLimit(self.valkey)
        self.passwords = Passwords(settings)
        # Hashing, and who shows a key, has threads of its own: a crowd at the sign-in must not take those of everybody else.
        self.hashing = ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hashing")
        self.backlog = Backlog(self.database, NAME, settings)
        # It only tells and reads nobody's messages; the paths are there as in every service.
        self.dead_letters = PostgresDeadLetters(self.database, consumer=NAME, handler=None)
        self.principals = CachedDirectory(self._load_principals, self._load_assigned, load_id=self._load_id)

    @property
    def key_directory(self) -> Path:
        assert self.settings.key_dir is not None, "customer_service signs tokens and needs BROKAGE_KEY_DIR"
        return Path(self.settings.key_dir)

    def signing_key(self) -> SigningKey:
        """The newest key; read each time, so that a rotation needs no restart."""
        return load_signing_key(self.key_directory)

    def field_keys(self) -> FieldKeys:
        """The keys of encrypted fields; read each time, as well."""
        return encryption.load(self.settings)

    def ready(self) -> str | None:
        self.database.ping()
        self.signing_key()
        self.field_keys()
        return None

    def close(self) -> None:
        self.hashing.shutdown(wait=False, cancel_futures=True)
        self.valkey.close()
        self.backlog.close()
        self.database.close()

    def _load_principals(self, ids: Collection[int]) -> list[Principal]:
        with self.database.read() as connection:
            return principals_of(connection, repository.find_states(connection, ids))

    def _load_id(self, username: str) -> int | None:
        with self.database.read() as connection:
            found = repository.find_credentials(connection, username)
        return found["id"] if found else None

    def _load_assigned(self, broker_id: int) -> frozenset[int]:
        with self.database.read() as connection:
            return frozenset(repository.list_assigned_customer_ids(connection, broker_id))


async def _resources(request: Request) -> CustomerResources:
    return cast(CustomerResources, service_resources(request, NAME))


Resources = Annotated[CustomerResources, Depends(_resources)]
