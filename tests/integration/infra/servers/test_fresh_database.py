"""What the fixture of all integration tests promises: databases of one's own, as the services' own are."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infra.migrate import VARIABLES, behind
from infra.servers import DATABASES


@pytest.mark.parametrize("service", DATABASES)
def test_migrated_and_empty_and_of_its_role(fresh_database: Callable[[str], str], service: str) -> None:
    url = fresh_database(service)
    assert behind({VARIABLES[service]: url}, [service]) == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == (service,)
        assert connection.execute("SELECT count(*) FROM outbox_events").fetchone() == (0,)
        connection.execute("CREATE TABLE mine (n int)")


def test_what_is_written_to_one_is_in_no_other(fresh_database: Callable[[str], str]) -> None:
    one, other = fresh_database("order_service"), fresh_database("order_service")
    with psycopg.connect(one) as connection:
        connection.execute("CREATE TABLE written (n int)")
    for url in (other, fresh_database("order_service")):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('written')").fetchone() == (None,)


def test_another_role_does_not_get_in(fresh_database: Callable[[str], str], servers: Any) -> None:
    database = psycopg.conninfo.conninfo_to_dict(fresh_database("asset_service"))["dbname"]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(servers.postgres.url_of("order_service", str(database)))
