"""A database that is there and refuses: it only reads, is full, or gives up a statement."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors
from small_service import Source
from test_postgres_inbox import Applied, create_delivery, create_message

from infra.faults.links import Link, Links
from shared.db.engine import Database, DatabaseUnavailable
from shared.db.unit_of_work import UnitOfWork
from shared.messaging.inbox import Inbox, Unavailable
from shared.messaging.postgres_inbox import PostgresInboxStore


def demoted(unit: UnitOfWork) -> None:
    unit.connection.execute("SET TRANSACTION READ ONLY")
    unit.connection.execute("INSERT INTO effects (consumer) VALUES ('tests')")


def full(unit: UnitOfWork) -> None:
    raise errors.DiskFull


def too_slow(unit: UnitOfWork) -> None:
    unit.connection.execute("SET LOCAL statement_timeout = '10ms'")
    unit.connection.execute("SELECT pg_sleep(5)")


@pytest.fixture
def database(source: Source) -> Iterator[Database]:
    database = Database(source.url, name="tests", pool_size=2)
    yield database
    database.close()


@pytest.fixture
def handlers(source: Source) -> Iterator[Database]:
    database = Database(source.url, name="tests worker", pool_size=2, handler_limits=True)
    yield database
    database.close()


class TestRequests:
    @pytest.mark.parametrize("work", [demoted, full, too_slow])
    def test_is_told_to_come_again(self, database: Database, work: Callable[[UnitOfWork], None]) -> None:
        with pytest.raises(DatabaseUnavailable):
            database.run(work)

    def test_a_read_that_takes_too_long_is_told_so_too(self, database: Database) -> None:
        with pytest.raises(DatabaseUnavailable), database.read() as connection:
            connection.execute("SET statement_timeout = '10ms'")
            connection.execute("SELECT pg_sleep(5)")


class TestMessages:
    def test_no_event_is_parked_because_the_disk_is_full(self, source: Source, handlers: Database) -> None:
        applied = Applied()

        def refuse(messages: object) -> None:
            raise errors.DiskFull

        applied.before = refuse
        inbox = Inbox(PostgresInboxStore(handlers, consumer="tests", handler=applied), attempts_max=3)
        delivery = create_delivery([create_message("a", 1)])
        for _ in range(4):
            with pytest.raises(Unavailable):
                inbox.receive(delivery)
        with psycopg.connect(source.url) as connection:
            assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)
        applied.before = lambda messages: None
        (acknowledgement,) = inbox.receive(delivery)
        assert acknowledgement.outcome == "ACKED"

    def test_a_batch_that_takes_too_long_is_told_so_to_be_split(self, handlers: Database) -> None:
        with pytest.raises(errors.QueryCanceled):
            handlers.run(too_slow)


class TestAnOutage:
    def test_is_over_soon_after_the_server_is_back(self, source: Source) -> None:
        """Not when the pool, whose pauses grow with the outage, tries again."""
        there = urlsplit(source.url)
        assert there.port is not None
        link = Link("postgres", lambda: int(there.port or 0))
        with Links([link]):
            url = there._replace(netloc=there.netloc.replace(str(there.port), str(link.port))).geturl()
            database = Database(url, name="tests", pool_size=2)
            database.ping()
            link.bend.down = True
            link.reset_all()
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    database.run(lambda unit: unit.connection.execute("SELECT 1") and None)
            link.heal()
            database.run(lambda unit: unit.connection.execute("SELECT 1") and None)
            database.close()
