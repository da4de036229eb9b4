"""Secrets that were really used are nowhere but where they belong: each is searched for, as it is and in base64, in all that
the system wrote. What is planted to be found shows that the search would find them."""

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any

import bson
import psycopg
import pytest
import redis
from psycopg import sql
from pymongo import MongoClient

from shared.ids import new_id
from tests.e2e.system import System, User, wait_until

DATABASES = ("orders", "assets", "customers", "processor")


def iban() -> str:
    """With the right check digits."""
    account = "".join(secrets.choice("0123456789") for _ in range(22))
    return f"TR{98 - int(account + '292700') % 97:02d}{account}"


@pytest.fixture(scope="module")
def used(system: System) -> tuple[dict[str, str], dict[str, str]]:
    """Secrets by name, after everything was done with them that people do; and what may be found."""
    canaries = {
        "phone": "+90" + "".join(secrets.choice("123456789") for _ in range(10)),
        "national_id": "".join(secrets.choice("123456789") for _ in range(11)),
        "iban": iban(),
        "password": secrets.token_urlsafe(16),
        "second password": secrets.token_urlsafe(16),
        "mistyped password": secrets.token_urlsafe(16),
        "password as username": secrets.token_hex(8),
        "old phone": "+90" + "".join(secrets.choice("123456789") for _ in range(10)),
    }
    planted = {"full name": f"Canary {secrets.token_hex(8)}", "correlation": new_id()}
    username = f"canary-{secrets.token_hex(4)}"
    client = system.client
    body = {"username": username, "password": canaries["password"], "full_name": planted["full name"]}
    body |= {"phone": canaries["old phone"], "national_id": canaries["national_id"], "iban": canaries["iban"]}
    key = new_id()
    for _ in range(2):
        answer = system.admin.request("POST", "/api/customers", json=body, key=key)
        assert answer.status_code == 201, answer.text
    path = f"/api/customers/{answer.json()['id']}"

    sign_in = {"grant_type": "password", "username": username, "password": canaries["password"]}
    session = client.post("/api/auth/token", data=sign_in).json()
    canaries |= {"access token": session["access_token"], "refresh token": session["refresh_token"]}
    client.post("/api/auth/token", data={**sign_in, "password": canaries["mistyped password"]})
    client.post("/api/auth/token", data={**sign_in, "username": canaries["password as username"]})
    refreshed = client.post(
        "/api/auth/token", data={"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    ).json()
    canaries |= {"second access token": refreshed["access_token"], "second refresh token": refreshed["refresh_token"]}

    headers = {"Authorization": f"Bearer {refreshed['access_token']}", "X-Correlation-ID": planted["correlation"]}
    changed = client.patch(path, json={"phone": canaries["phone"]}, headers=headers)
    assert changed.json()["phone"] == canaries["phone"], changed.text
    wrong = {
        "national_id": canaries["national_id"] + " ",
        "iban": canaries["iban"][:-1] + "X",
        "phone": [canaries["phone"]],
    }
    assert client.patch(path, json=wrong, headers=headers).status_code == 422
    assert client.patch(path, content=json.dumps(wrong)[:-1], headers=headers).status_code in (400, 415)
    assert client.get(f"{path}?iban={canaries['iban']}", headers=headers).status_code == 422
    assert client.get(f"/api/customers/{canaries['national_id']}x", headers=headers).status_code in (404, 422)
    client.get("/api/me", headers={"Authorization": f"Bearer {refreshed['access_token']}x"})
    for reader in (system.admin, system.auditor):
        reader.request("GET", path)
    system.admin.get("/api/customers", limit=200)
    system.admin.request("PUT", f"{path}/tier", json={"tier": "VIP"})
    passwords = {"current_password": canaries["password"], "new_password": canaries["second password"]}
    assert client.post("/api/auth/password", json=passwords, headers=headers).status_code == 204
    customer = User(client, username, canaries["second password"])
    customer.request("POST", "/api/orders", json={"iban": canaries["iban"]}, key=new_id())
    rotated = system.command("pii", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert customer.get(path)["phone"] == canaries["phone"]
    client.post("/api/auth/revoke", data={"token": refreshed["refresh_token"]})
    _wait_told(system, planted["correlation"])
    return canaries, planted


def _wait_told(system: System, correlation: str) -> None:
    def told() -> bool:
        logs = system.auditor.all("/api/audit/logs", entity_type="customer", action="CustomerUpdated")
        seen = system.auditor.get("/api/audit/telemetry", limit=200)["data"]
        return any(r["correlation_id"] == correlation for r in logs) and any(
            r["correlation_id"] == correlation for r in seen
        )

    wait_until(told, what="the audit trail and telemetry")


def forms(value: str) -> set[bytes]:
    raw = value.encode()
    return {raw, base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"=")}


def postgres(system: System) -> Iterator[tuple[str, bytes]]:
    for name in DATABASES:
        with psycopg.connect(system.urls[name]) as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relowner = current_user::regrole"
            )
            for (table,) in tables.fetchall():
                with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
                    yield f"{name}.{table}", b"".join(bytes(part) for part in copy)


def mongo(system: System) -> Iterator[tuple[str, bytes]]:
    client: MongoClient[dict[str, Any]] = MongoClient(system.urls["mongo"])
    with client:
        for name in ("notifier", "auditor"):
            for collection in client[name].list_collection_names():
                yield f"{name}.{collection}", b"".join(bson.encode(each) for each in client[name][collection].find())


def valkey(system: System) -> Iterator[tuple[str, bytes]]:
    client: Any = redis.Redis.from_url(system.urls["redis"])
    client.set("canary-control", "valkey control", ex=60)
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    for key in client.scan_iter():
        kind = client.type(key)
        if kind in readers:
            yield f"valkey {key!r}", key + b" " + repr(readers[kind](key)).encode()
    client.close()


def files(system: System) -> Iterator[tuple[str, bytes]]:
    plain = [*system.data_dir.glob("*.json"), *system.data_dir.glob("*.ndjson"), *(system.data_dir / "logs").iterdir()]
    for path in plain:
        if path.is_file():
            yield path.name, path.read_bytes()
    yield "output", system.output().encode()
    export = system.auditor.request("GET", "/api/audit/export")
    yield "export", export.content


STORES = {"postgres": postgres, "mongo": mongo, "valkey": valkey, "files": files}
CONTROLS = {"postgres": "full name", "mongo": "correlation", "files": "correlation"}


@pytest.mark.parametrize("store", STORES)
def test_no_secret_is_in(store: str, system: System, used: tuple[dict[str, str], dict[str, str]]) -> None:
    canaries, planted = used
    written = list(STORES[store](system))
    found = [
        f"{name} in {place}"
        for place, content in written
        for name, value in canaries.items()
        if any(form in content for form in forms(value))
    ]
    assert found == []
    control = planted[CONTROLS[store]] if store in CONTROLS else "valkey control"
    assert any(control.encode() in content for _, content in written), "the search finds nothing at all"


def test_masked_for_others_and_in_clear_for_nobody_else(
    system: System, used: tuple[dict[str, str], dict[str, str]]
) -> None:
    canaries, _ = used
    listed = system.admin.request("GET", "/api/customers?limit=200").text
    assert not [name for name in ("phone", "national_id", "iban") if canaries[name] in listed]
