"""Origins, hosts and proxies: whom the edge believes, and what it says to all."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from shared.app import EdgeSettings
from shared.auth import keys
from tests.integration.edge.conftest import Served, World, serve
from tests.integration.edge.test_edge import ORDER, is_problem

APP = "https://app.example.com"
PROTECTIVE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.fixture(scope="module")
def behind(servers: Any, key_directory: Any) -> Iterator[Served]:
    """Served with a list of each kind; we are the proxy."""
    settings = EdgeSettings(
        redis_url=servers.env["BROKAGE_REDIS_URL"],
        key_dir=str(key_directory),
        jwks_url=None,
        trusted_proxies="127.0.0.1, 10.1.0.0/16",
        allowed_hosts="api.example.com, 127.0.0.1, [::1]",
        cors_origins=f"{APP}, http://localhost:5173",
    )
    world = World()
    for base in serve(world, settings):
        yield Served(world, base, keys.load_signing_key(key_directory), None)


def preflight(served: Served, origin: str, path: str = "/api/orders", method: str = "POST") -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers["Access-Control-Request-Headers"] = "authorization,content-type,idempotency-key"
    return served.call("OPTIONS", path, headers=headers)


class TestSecurityHeaders:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/health/live"), ("GET", "/docs"), ("GET", "/nowhere"), ("GET", "/api/orders"), ("PUT", "/metrics")],
    )
    def test_are_on_every_answer(self, served: Any, method: str, path: str) -> None:
        headers = served.call(method, path).headers
        assert PROTECTIVE.items() <= dict(headers).items()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Strict-Transport-Security" not in headers

    @pytest.mark.parametrize("data", [b"not http\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000])
    def test_also_on_what_the_server_itself_refuses(self, served: Any, data: bytes) -> None:
        head = served.raw(data).partition(b"\r\n\r\n")[0].decode().lower()
        for name, value in PROTECTIVE.items():
            assert f"{name}: {value.lower()}" in head
        assert "content-security-policy: default-src 'none'" in head

    def test_https_for_ever_is_said_to_who_came_by_https(self, behind: Served) -> None:
        by_tls = behind.call("GET", "/nowhere", headers={"X-Forwarded-Proto": "https"})
        assert by_tls.headers["Strict-Transport-Security"].startswith("max-age=63072000")
        for proto in ("http", "https, http", ""):
            answer = behind.call("GET", "/nowhere", headers={"X-Forwarded-Proto": proto})
            assert "Strict-Transport-Security" not in answer.headers, proto

    def test_but_not_because_he_says_so_himself(self, served: Any) -> None:
        answer = served.call("GET", "/nowhere", headers={"X-Forwarded-Proto": "https"})
        assert "Strict-Transport-Security" not in answer.headers


class TestOtherOrigins:
    def test_are_nobodys_unless_listed(self, served: Any) -> None:
        answer = served.call("GET", "/api/orders", served.world.add(), headers={"Origin": APP})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert preflight(served, APP).status_code == 401

    @pytest.mark.parametrize("origin", [APP, "http://localhost:5173"])
    def test_on_the_list_may_ask_and_read(self, behind: Served, origin: str) -> None:
        asked = preflight(behind, origin)
        assert (asked.status_code, asked.text) == (204, "")
        assert asked.headers["Access-Control-Allow-Origin"] == origin
        assert asked.headers["Access-Control-Allow-Methods"] == "GET, POST"
        assert "Idempotency-Key" in asked.headers["Access-Control-Allow-Headers"]
        assert asked.headers["Access-Control-Max-Age"] == "600"
        answer = behind.call("POST", "/api/orders", behind.world.add(), json=ORDER, headers={"Origin": origin})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, origin)
        assert "X-RateLimit-Remaining" in answer.headers["Access-Control-Expose-Headers"]
        for each in (asked, answer):
            assert "Origin" in each.headers["Vary"]
            assert "Access-Control-Allow-Credentials" not in each.headers

    def test_read_refusals_too(self, behind: Served) -> None:
        refused = behind.call("GET", "/api/orders", headers={"Origin": APP})
        assert is_problem(refused, 401)
        assert refused.headers["Access-Control-Allow-Origin"] == APP

    @pytest.mark.parametrize(
        "origin",
        [
            *(
                "https://app.example.com.evil.example",
                "https://evil.example",
                "http://app.example.com",
                "null",
                "*",
                "",
            ),
            *("https://APP.example.com", "https://app.example.com/", "https://app.example.com:443"),
        ],
    )
    def test_not_on_the_list_get_nothing(self, behind: Served, origin: str) -> None:
        person = behind.world.add()
        answers = [preflight(behind, origin), behind.call("GET", "/api/orders", person, headers={"Origin": origin})]
        assert [answer.status_code for answer in answers] == [401, 200]
        for answer in answers:
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]

    def test_ask_about_paths_that_exist(self, behind: Served) -> None:
        assert preflight(behind, APP, "/nowhere").status_code == 404
        plain = behind.call("OPTIONS", "/api/orders", behind.world.add(), headers={"Origin": APP})
        assert is_problem(plain, 405)

    @pytest.mark.parametrize("origins", ["*", "app.example.com", "https://app.example.com/", "https://*.example.com"])
    def test_that_are_none_refuse_the_start(self, origins: str) -> None:
        with pytest.raises(ValidationError):
            EdgeSettings(cors_origins=origins)


class TestHost:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("api.example.com", 200),
            ("API.example.com:8443", 200),
            ("[::1]:8000", 200),
            ("evil.example", 400),
            ("api.example.com.evil.example", 400),
            ("api.example.com@evil.example", 400),
            ("", 400),
            ("a b", 400),
            ("api.example.com:port", 400),
            ("api.example.com/x", 400),
        ],
    )
    def test_is_one_of_ours(self, behind: Served, host: str, status: int) -> None:
        answer = behind.call("GET", "/api/orders", behind.world.add(), headers={"Host": host})
        assert answer.status_code == status
        assert status == 200 or is_problem(answer, 400, "bad-request")

    def test_is_any_where_there_is_no_list_but_a_host(self, served: Any) -> None:
        person = served.world.add()
        assert served.call("GET", "/api/orders", person, headers={"Host": "any.example"}).status_code == 200
        assert served.call("GET", "/api/orders", person, headers={"Host": "<script>"}).status_code == 400

    def test_of_a_probe_is_an_address(self, behind: Served) -> None:
        assert behind.call("GET", "/health/live", headers={"Host": "10.0.0.1:8000"}).status_code == 200

    @pytest.mark.parametrize("hosts", ["https://api.example.com", "api.example.com:8000", "*"])
    def test_that_is_none_refuses_the_start(self, hosts: str) -> None:
        with pytest.raises(ValidationError):
            EdgeSettings(allowed_hosts=hosts)


class TestProxies:
    @pytest.fixture(autouse=True)
    def full_buckets(self, served: Any) -> None:
        """`served` empties them."""

    def left(self, served: Served, forwarded: str) -> int:
        answer = served.call("GET", "/nowhere", headers={"X-Forwarded-For": forwarded})
        return int(answer.headers["X-RateLimit-Remaining"])

    def test_of_ours_say_who_calls(self, behind: Served) -> None:
        assert [self.left(behind, each) for each in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [299, 299, 298]

    def test_only_the_last_hop_that_is_not_ours_counts(self, behind: Served) -> None:
        chains = ["192.0.2.9", "1.1.1.1, 192.0.2.9", "192.0.2.9, 10.1.2.3", "2.2.2.2, 192.0.2.9, 10.1.2.3, 127.0.0.1"]
        assert [self.left(behind, chain) for chain in chains] == [299, 298, 297, 296]

    def test_an_ipv6_network_is_one_caller(self, behind: Served) -> None:
        assert [self.left(behind, each) for each in ("2001:db8::1", "2001:db8::ffff:1")] == [299, 298]

    def test_that_are_strangers_are_not_believed(self, served: Any) -> None:
        assert [self.left(served, each) for each in ("192.0.2.1", "192.0.2.2")] == [299, 298]

    @pytest.mark.parametrize("proxies", ["everybody", "10.0.0.0/8/8", "10.0.0.1/8", "*"])
    def test_that_are_none_refuse_the_start(self, proxies: str) -> None:
        with pytest.raises(ValidationError):
            EdgeSettings(trusted_proxies=proxies)
