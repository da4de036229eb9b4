"""A service's database in one process: a connection pool, transactions with bounded retries, the movable clock."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TypeVar

import msgspec
import psycopg
import psycopg.adapt
import psycopg.types.json
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolTimeout
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from shared.clock import Clock
from shared.db.unit_of_work import Conflict, Connection, Context, UnitOfWork
from shared.faults import fault

T = TypeVar("T")

ATTEMPTS_MAX = 8
_POOL_SECONDS = 5.0
_TRANSIENT = (
    Conflict,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.ConnectionException,
)
_PLANS = {
    # All is looked up by key. Without statistics yet the planner prefers scans of what was empty a moment ago; and since it
    # expects a hundred rows of every list it is given, it scans thousands where a few are asked for.
    "enable_seqscan": "off",
    "jit": "off",
}
HANDLER_LIMITS = {
    # A stopped worker must not hold a lane or a lock for long (messaging.md, limits).
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "5s",
    "transaction_timeout": "10s",
    **_PLANS,
}
REQUEST_LIMITS = {
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    **_PLANS,
}


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or kept refusing the transaction for reasons that pass. Nothing was committed, or it is
    not known: the caller repeats by its key."""


def is_transient(error: BaseException) -> bool:
    """Whether repeating the whole transaction may succeed."""
    if isinstance(error, _TRANSIENT):
        return True
    # A lost connection has no SQLSTATE; a commit whose answer was lost is one, and is no commit until seen.
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _may_pass_soon(error: BaseException) -> bool:
    """Not where a long wait is behind it already: there was no connection to be had."""
    return is_transient(error) and not isinstance(error, PoolTimeout)


_TOO_LONG = (errors.QueryCanceled, errors.TransactionTimeout)


def is_refusal(error: BaseException) -> bool:
    """Whether the server cannot do any work of the kind now: it was demoted and only reads, is full, or has no connection or
    memory left. Repeating at once would not help, and whoever asked is not to blame."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return True
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("53")


@lru_cache(maxsize=65_536)
def _amount(text: bytes) -> Decimal:
    # Cached: a batch has few different prices and fees, and zeros without number.
    return Decimal((text.rstrip(b"0").rstrip(b".") if b"." in text else text).decode())


class _AmountLoader(psycopg.adapt.Loader):
    def load(self, data: Buffer) -> Decimal:
        return _amount(bytes(data))


def _configure(connection: psycopg.Connection[DictRow]) -> None:
    connection.adapters.register_loader("numeric", _AmountLoader)
    connection.adapters.register_loader("uuid", TextLoader)
    psycopg.types.json.set_json_loads(msgspec.json.decode, connection)


class Database:
    """One service's Postgres database.

    Args:
        url: what libpq takes.
        name: the service's name; shown in `pg_stat_activity`.
        pool_size: connections at most; callers beyond wait up to 5 s, then get DatabaseUnavailable.
        handler_limits: the time limits of message handlers instead of those of requests.
    """

    def __init__(self, url: str, *, name: str, pool_size: int = 10, handler_limits: bool = False) -> None:
        self.url = url
        self.name = name
        self.clock = Clock(self._clock_offset)
        self._handler_limits = handler_limits
        limits = HANDLER_LIMITS if handler_limits else REQUEST_LIMITS
        self._pool: ConnectionPool[psycopg.Connection[DictRow]] = ConnectionPool(
            url,
            min_size=1,
            max_size=pool_size,
            timeout=_POOL_SECONDS,
            max_idle=600.0,
            # Pauses between attempts double, and nobody else tries meanwhile: they end with the caller, the next begins anew.
            reconnect_timeout=_POOL_SECONDS,
            configure=_configure,
            check=ConnectionPool.check_connection if os.environ.get("BROKAGE_CHECK_CONNECTIONS") else None,
            kwargs={
                "row_factory": dict_row,
                "autocommit": True,
                "application_name": f"brokage {name}",
                # UTC, whatever an external server's zone: times go out as they come in.
                "options": " ".join(f"-c {key}={value}" for key, value in {**limits, "timezone": "UTC"}.items()),
                "connect_timeout": 3,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
            },
            open=True,
        )

    def close(self) -> None:
        self._pool.close()

    def ping(self) -> None:
        with self.read() as connection:
            connection.execute("SELECT 1")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in autocommit, for queries. Raises DatabaseUnavailable when there is none."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout as error:
            raise DatabaseUnavailable(self.name) from error
        except psycopg.Error as error:
            if self._is_unavailable(error):
                raise DatabaseUnavailable(self.name) from error
            raise

    def _is_unavailable(self, error: Exception) -> bool:
        # A request that took too long may come again later. A batch that did must be split, so its handler hears of it.
        too_long = isinstance(error, _TOO_LONG) and not self._handler_limits
        return too_long or is_transient(error) or is_refusal(error)

    def run(
        self, work: Callable[[UnitOfWork], T], *, context: Context | None = None, attempts: int = ATTEMPTS_MAX
    ) -> T:
        """Do `work` in one transaction, write what it recorded to the outbox, commit, and return its result.

        A conflict, a deadlock, a lock timeout or a lost connection repeats the whole, at most `attempts` times with growing,
        jittered pauses: `work` must have no effect outside its transaction. A commit whose answer is lost is repeated too, so
        `work` must be idempotent by a key it writes.

        Raises:
            DatabaseUnavailable: it did not get through.
        """
        retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.01, max=1.0),
            retry=retry_if_exception(_may_pass_soon),
            reraise=True,
        )
        try:
            result: T = retrying(self._run_once, work, context or Context())
            return result
        except PoolTimeout as error:
            raise DatabaseUnavailable(self.name) from error
        except (Conflict, psycopg.Error) as error:
            if self._is_unavailable(error):
                raise DatabaseUnavailable(self.name) from error
            raise

    def _run_once(self, work: Callable[[UnitOfWork], T], context: Context) -> T:
        with self._pool.connection() as connection:
            now = self.clock.now(lambda: _read_offset(connection))
            with connection.transaction():
                unit = UnitOfWork(connection, now=now, context=context)
                result = work(unit)
                unit.flush()
            fault("unit_of_work.committed")
            return result

    def _clock_offset(self) -> timedelta:
        with self.read() as connection:
            return _read_offset(connection)


def _read_offset(connection: Connection) -> timedelta:
    row = connection.execute("SELECT value FROM clock_offset").fetchone()
    offset: timedelta = row["value"] if row else timedelta()
    return offset
