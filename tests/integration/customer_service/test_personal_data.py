"""Phone, national id and IBAN: stored encrypted, shown to whom they belong, moved to new keys."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from customer_service import repository
from customer_service.service import key_rotation
from infra.migrate import upgrade
from infra.runtime.failures import StartFailed
from shared import encryption
from shared.encryption import CannotOpen, Place
from tests.integration.customer_service.conftest import Api, Person

PERSONAL = {"phone": "+905551234567", "national_id": "10000000146", "iban": "TR330006100519786457841326"}
MASKED = {"phone": "*********4567", "national_id": "*******0146", "iban": "**********************1326"}
COLUMNS = "phone, national_id, iban, personal_key_version"


def patch(api: Api, customer: Person, values: dict[str, Any]) -> dict[str, Any]:
    answer = api.request("PATCH", f"/api/customers/{customer.id}", customer.username, json=values)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def stored(api: Api, customer: Person) -> tuple[Any, ...]:
    with psycopg.connect(api.database_url) as connection:
        row = connection.execute(f"SELECT {COLUMNS} FROM customers WHERE id = %s", [customer.id]).fetchone()
    assert row is not None
    return row


def forget(api: Api, customer: Person) -> None:
    api.execute("UPDATE customers SET phone = NULL, national_id = NULL, iban = NULL WHERE id = %s", customer.id)


def personal(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in PERSONAL}


class TestStored:
    def test_the_row_names_the_key_and_holds_nothing_in_clear(self, api: Api, customer: Person) -> None:
        patch(api, customer, PERSONAL)
        with psycopg.connect(api.database_url) as connection:
            row = connection.execute("SELECT customers::text FROM customers WHERE id = %s", [customer.id]).fetchone()
        assert not [value for value in PERSONAL.values() if value.removeprefix("+") in str(row)]
        assert stored(api, customer)[-1] == 1

    def test_each_field_changes_alone_and_null_clears_it(self, api: Api, customer: Person) -> None:
        patch(api, customer, PERSONAL)
        changed = patch(api, customer, {"phone": "+905557654321", "iban": None})
        assert personal(changed) == {**PERSONAL, "phone": "+905557654321", "iban": None}
        patch(api, customer, {"phone": None, "national_id": None})
        assert stored(api, customer) == (None, None, None, None)

    def test_registered_with_them(self, api: Api, admin: Person) -> None:
        body = {"username": f"p{os.urandom(6).hex()}", "password": "a good one", **PERSONAL}
        created = api.request("POST", "/api/customers", admin.username, json=body)
        assert (created.status_code, personal(created.json())) == (201, PERSONAL)

    @pytest.mark.parametrize("field", PERSONAL)
    def test_moved_to_another_row_or_field_it_does_not_open_and_the_answer_says_nothing(
        self, api: Api, admin: Person, customer: Person, field: str
    ) -> None:
        other = api.customer()
        patch(api, other, PERSONAL)
        patch(api, customer, PERSONAL)
        statement = f"UPDATE customers SET {field} = o.{field} FROM customers o WHERE customers.id = %s AND o.id = %s"
        api.execute(statement, customer.id, other.id)
        answer = api.request("GET", f"/api/customers/{customer.id}", customer.username)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
        assert not [value for value in PERSONAL.values() if value in answer.text]
        in_list = listed(api, "/api/customers?limit=200", admin.username, customer.id)
        assert set(personal(in_list).values()) == {"****"}
        forget(api, customer)

    def test_a_row_without_a_key_number_is_refused_by_the_database(self, api: Api, customer: Person) -> None:
        with pytest.raises(psycopg.errors.CheckViolation):
            api.execute("UPDATE customers SET phone = '+905551234567' WHERE id = %s", customer.id)


class TestWhoSeesThem:
    def test_the_customer_and_an_admin_who_asks_for_him_see_them_all_lists_are_masked(
        self, api: Api, admin: Person, customer: Person, broker: Person
    ) -> None:
        patch(api, customer, PERSONAL)
        path = f"/api/brokers/{broker.id}/customers"
        api.request("POST", path, admin.username, json={"customer_id": customer.id})
        for user in (customer, admin):
            shown = api.request("GET", f"/api/customers/{customer.id}", user.username).json()
            assert personal(shown) == PERSONAL
        lists = {admin.username: ["/api/customers?limit=200", path], broker.username: [path]}
        for username, paths in lists.items():
            for each in paths:
                found = listed(api, each, username, customer.id)
                assert personal(found) == MASKED, each

    def test_others_do_not_see_him_at_all(self, api: Api, customer: Person, broker: Person) -> None:
        answer = api.request("GET", f"/api/customers/{customer.id}", broker.username)
        assert answer.status_code in (403, 404)


def listed(api: Api, path: str, username: str, customer_id: int) -> dict[str, Any]:
    """The customer as a collection shows him, wherever in it he is."""
    cursor = ""
    while True:
        page = api.request("GET", path + cursor, username).json()
        for item in page["data"]:
            if item["id"] == customer_id:
                found: dict[str, Any] = item
                return found
        assert page["next_cursor"], "he is not in the list"
        cursor = f"&cursor={page['next_cursor']}"


class TestSaid:
    def test_events_tell_that_they_changed_by_digests_under_the_key(self, api: Api, customer: Person) -> None:
        patch(api, customer, {"phone": PERSONAL["phone"]})
        patch(api, customer, {"phone": "+905557654321", "full_name": "A B"})
        patch(api, customer, {"phone": PERSONAL["phone"]})
        first, second, third = [
            event["payload"] for event in api.events(customer.id) if event["type"] == "CustomerUpdated"
        ]
        assert first["before"] == {"phone": None}
        assert second["before"]["phone"] == first["after"]["phone"] == third["after"]["phone"]
        assert second["after"]["phone"] == third["before"]["phone"] != first["after"]["phone"]
        assert first["after"]["phone"].startswith("hmac-sha256:1:")
        assert set(second["after"]) == {"phone", "full_name"}

    def test_the_same_again_says_nothing(self, api: Api, customer: Person) -> None:
        for _ in range(2):
            patch(api, customer, PERSONAL)
        assert [event["type"] for event in api.events(customer.id)].count("CustomerUpdated") == 1


class TestRotation:
    def test_a_new_key_seals_at_once_and_the_old_one_still_opens(
        self, api: Api, customer: Person, rotated: Callable[[], int]
    ) -> None:
        patch(api, customer, PERSONAL)
        new = rotated()
        assert personal(api.request("GET", f"/api/customers/{customer.id}", customer.username).json()) == PERSONAL
        patch(api, customer, {"phone": None})
        assert stored(api, customer)[-1] == new

    def test_interrupted_it_goes_on_where_it_was_and_nobody_is_told(self, api: Api, rotated: Callable[[], int]) -> None:
        people = [api.customer() for _ in range(5)]
        for person in people:
            patch(api, person, PERSONAL)
        said = [len(api.events(person.id)) for person in people]
        new = rotated()
        database, keys = api.resources.database, api.resources.field_keys()
        waiting = key_rotation.rows_under_older_keys(database, keys)
        assert waiting >= 5
        interrupted = key_rotation.reencrypt(database, keys, batch=2)
        assert next(interrupted) == 2
        interrupted.close()
        assert key_rotation.rows_under_older_keys(database, keys) == waiting - 2
        moved = list(key_rotation.reencrypt(database, keys, batch=2))
        assert (sum(moved), max(moved)) == (waiting - 2, 2)
        assert {stored(api, person)[-1] for person in people} == {new}
        assert all(personal(patch(api, person, {})) == PERSONAL for person in people)
        assert [len(api.events(person.id)) for person in people] == said

    def test_secrets_of_second_factors_move_as_well(
        self, api: Api, customer: Person, rotated: Callable[[], int]
    ) -> None:
        database = api.resources.database
        place = Place("second_factors", customer.id, "secret")
        old = api.resources.field_keys()
        database.run(
            lambda uow: repository.put_second_factor(
                uow.connection, customer.id, secret=old.seal("JBSWY3DP", place), key_version=old.current
            )
        )
        new = rotated()
        keys = api.resources.field_keys()
        assert key_rotation.rows_under_older_keys(database, keys) >= 1
        list(key_rotation.reencrypt(database, keys, batch=2))
        assert key_rotation.rows_under_older_keys(database, keys) == 0
        with psycopg.connect(api.database_url) as connection:
            row = connection.execute(
                "SELECT secret, key_version FROM second_factors WHERE customer_id = %s", [customer.id]
            ).fetchone()
        assert row is not None
        assert (row[1], keys.open(row[0], new, place)) == (new, "JBSWY3DP")

    def test_what_does_not_open_stops_it_and_stays_as_it_was(self, api: Api, rotated: Callable[[], int]) -> None:
        people = [api.customer() for _ in range(2)]
        for person in people:
            patch(api, person, PERSONAL)
        rotated()
        damaged, before = people[0], stored(api, people[0])
        api.execute("UPDATE customers SET phone = iban WHERE id = %s", damaged.id)
        with pytest.raises(CannotOpen, match=f"customers {damaged.id}: phone"):
            list(key_rotation.reencrypt(api.resources.database, api.resources.field_keys(), batch=1))
        api.execute("UPDATE customers SET phone = %s WHERE id = %s", before[0], damaged.id)
        assert stored(api, damaged) == before

    def test_the_command_makes_a_key_and_moves_everything_and_again_after_an_interruption(
        self, api: Api, customer: Person, rotated: Callable[[], int]
    ) -> None:
        patch(api, customer, PERSONAL)
        interrupted = rotated()  # a key was made, and nothing moved
        done = brokage(api, "pii", "rotate", "--batch", "3")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == "the last rotation has not ended; going on with it"
        assert lines[-1].startswith(f"everything is under field key {interrupted}: ")
        assert lines[-1].endswith(" 0 under older keys")
        again = brokage(api, "pii", "rotate")
        assert f"made field key {interrupted + 1} in " in again.stdout
        assert stored(api, customer)[-1] == interrupted + 1
        assert personal(patch(api, customer, {})) == PERSONAL

    def test_the_command_without_keys_is_one_line(self, api: Api) -> None:
        done = brokage(api, "pii", "rotate", key_dir="")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1 and "BROKAGE_KEY_DIR" in done.stderr


@pytest.fixture
def rotated(api: Api) -> Callable[[], int]:
    """Adds a field key; afterwards everything is under the newest."""
    return lambda: encryption.rotate(api.resources.key_directory)


def brokage(api: Api, *arguments: str, key_dir: str | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    environment = {
        "BROKAGE_CUSTOMERS_DATABASE_URL": api.database_url,
        "BROKAGE_KEY_DIR": str(api.resources.key_directory) if key_dir is None else key_dir,
    }
    return subprocess.run(
        [sys.executable, "-m", "infra", *arguments],
        env=clean | {name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestKeysAreNeeded:
    def test_the_service_does_not_start_without(
        self, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from customer_service.dependencies import CustomerResources

        for path in api.resources.key_directory.glob("*.pem"):
            shutil.copy(path, tmp_path)
        settings = api.resources.settings.model_copy(update={"key_dir": str(tmp_path)})
        with pytest.raises(encryption.FieldKeysUnusable, match="no field-"):
            CustomerResources(settings)


class TestMigration:
    @pytest.fixture
    def before(self, servers: Any) -> str:
        """A database as it was when phone numbers were stored in clear, with one."""
        name = f"customer_service_{os.urandom(4).hex()}"
        with servers.postgres.connect() as connection:
            owner = sql.Identifier("customer_service")
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner))
        url: str = servers.postgres.url_of("customer_service", name)
        upgrade("customer_service", url, "0002")
        with psycopg.connect(url) as connection:
            connection.execute(
                "INSERT INTO customers (username, password_hash, tier, phone) VALUES ('old', 'x', 'VIP', '+905551234567')"
            )
        return url

    def test_phones_in_clear_become_sealed(self, before: str, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BROKAGE_KEY_DIR", servers.env["BROKAGE_KEY_DIR"])
        upgrade("customer_service", before)
        with psycopg.connect(before) as connection:
            row = connection.execute("SELECT id, phone, personal_key_version FROM customers").fetchone()
        assert row is not None
        keys = encryption.load_directory(Path(servers.env["BROKAGE_KEY_DIR"]))
        assert keys.open(row[1], row[2], Place("customers", row[0], "phone")) == "+905551234567"

    def test_without_keys_it_is_refused_and_nothing_changes(self, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BROKAGE_KEY_DIR")
        with pytest.raises(StartFailed, match="BROKAGE_FIELD_KEYS"):
            upgrade("customer_service", before)
        with psycopg.connect(before) as connection:
            assert connection.execute("SELECT phone FROM customers").fetchone() == ("+905551234567",)
