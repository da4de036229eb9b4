"""The proof reads every row, but asks few questions: as many of a thousand orders as of a million."""

import re
from collections import Counter

import psycopg
from pymongo import monitoring
from reconcile_world import World

_STATEMENT = re.compile(r"^([^|]* reconcile)\|LOG:  (?:statement|execute [^:]*): (.*)$")
_CURSOR = re.compile(r"reconcile-[0-9a-f-]{36}")


class Listener(monitoring.CommandListener):
    """Counts what is asked of the document server from now on; the pages of an answer are not."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name != "getMore":
            self.asked[f"{event.database_name} {event.command_name}"] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def test_they_do_not_grow_with_the_number_of_orders(world: World) -> None:
    listener = Listener()
    monitoring.register(listener)
    few = questions(world, listener)
    buyer = world.customer(TRY="1000000")
    world.orders(buyer, "BUY", "1", "10", number=600)
    assert questions(world, listener) == few


def questions(world: World, listener: Listener) -> Counter[str]:
    assert world.servers.postgres is not None
    log = world.servers.data.logs / "postgres.log"
    listener.asked.clear()
    with world.servers.postgres.connect("postgres") as connection:
        configure(connection, "ALTER SYSTEM SET log_line_prefix = '%a|'", "ALTER SYSTEM SET log_statement = 'all'")
        position = log.stat().st_size
        try:
            assert not any(examined.broken for examined in world.reconcile().values())
        finally:
            configure(connection, "ALTER SYSTEM RESET log_statement", "ALTER SYSTEM RESET log_line_prefix")
    with log.open("rb") as stream:
        stream.seek(position)
        lines = stream.read().decode().splitlines()
    found = [match for match in map(_STATEMENT.match, lines) if match]
    # The pages of an answer are not counted.
    statements = [(each[1], _CURSOR.sub("", each[2])) for each in found if not each[2].startswith("FETCH")]
    assert len(statements) > 50
    return Counter(f"{service}: {statement}" for service, statement in statements) + listener.asked


def configure(connection: psycopg.Connection[object], *statements: str) -> None:
    for statement in (*statements, "SELECT pg_reload_conf()"):
        connection.execute(statement)
