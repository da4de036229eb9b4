"""What is true of every request, whichever service answers it."""

import asyncio
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.app import EdgeSettings
from shared.auth import keys
from shared.auth.permissions import Role
from shared.http import protocol
from shared.http.limits import Allowance, RateLimiter, Verdict, revoke_command
from shared.http.telemetry import STREAM, decode_batch
from shared.http.valkey import AsyncValkey
from tests.integration.edge.conftest import Served, World, serve

ORDER = {"asset_name": "AAPL", "size": "1", "client_order_id": "c"}


def is_problem(answer: Any, status: int, code: str | None = None) -> bool:
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "code", "message"} <= set(body)
    assert body["type"] == f"/problems/{body['code']}"
    assert body["status"] == status
    assert body["message"] == body["detail"]
    return code is None or body["code"] == code


class TestEveryAnswer:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/health/live"), ("GET", "/nowhere"), ("PUT", "/api/orders"), ("GET", "/docs")]
    )
    def test_has_its_headers(self, served: Any, method: str, path: str) -> None:
        headers = served.call(method, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Customer-Tier"] == "ANONYMOUS"
        assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} <= {
            name.title().replace("Ratelimit", "RateLimit") for name in headers
        }
        assert headers["X-Correlation-ID"]

    def test_goes_out_in_one_write(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[bytes] = []

        class Watched:
            def __init__(self, transport: asyncio.Transport) -> None:
                self._transport = transport

            def __getattr__(self, name: str) -> Any:
                return getattr(self._transport, name)

            def write(self, data: bytes) -> None:
                written.append(data)
                self._transport.write(data)

        one_write = protocol._OneWrite
        monkeypatch.setattr(protocol, "_OneWrite", lambda transport, loop: one_write(Watched(transport), loop))  # type: ignore[arg-type]
        answer = served.call("GET", "/nowhere")
        assert is_problem(answer, 404)
        assert [data.partition(b"\r\n\r\n")[2] for data in written] == [answer.content]

    def test_keeps_a_good_correlation_id_and_trace(self, served: Any) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"X-Correlation-ID": "my-id.7", "traceparent": trace}
        answer = served.call("GET", "/nowhere", headers=headers)
        assert answer.headers["X-Correlation-ID"] == answer.json()["instance"] == "my-id.7"
        assert answer.headers["traceparent"].split("-")[1] == trace.split("-")[1]
        assert answer.headers["traceparent"].split("-")[2] != trace.split("-")[2]

    @pytest.mark.parametrize(
        "value", ["", "a b", "x" * 65, "a%0d%0aSet-Cookie:b", "<script>", "ä".encode().decode("latin-1")]
    )
    def test_replaces_a_bad_correlation_id(self, served: Any, value: str) -> None:
        answer = served.call("GET", "/nowhere", headers={"X-Correlation-ID": value.encode("latin-1")})
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Correlation-ID"])


class TestForm:
    def test_unknown_paths(self, served: Any) -> None:
        for path in (
            "/nowhere",
            "/api/orders/",
            "/API/orders",
            "//api/orders",
            "/api/%6frders%2f",
            "/internal",
            "/redoc",
        ):
            assert is_problem(served.call("GET", path), 404, "not-found"), path

    def test_wrong_method_names_the_right_ones(self, served: Any) -> None:
        person = served.world.add()
        for method in ("PUT", "TRACE", "OPTIONS"):
            answer = served.call(method, "/api/orders", person)
            assert is_problem(answer, 405, "method-not-allowed")
            assert answer.headers["Allow"] == "GET, POST"
        assert served.call("PUT", "/api/orders").status_code == 401

    def test_method_override_is_ignored(self, served: Any) -> None:
        answer = served.call("GET", "/api/orders", served.world.add(), headers={"X-HTTP-Method-Override": "POST"})
        assert answer.status_code == 200

    def test_long_addresses_and_headers(self, served: Any) -> None:
        assert is_problem(served.call("GET", "/nowhere?" + "x" * 9000), 414, "uri-too-long")
        assert is_problem(served.call("GET", "/nowhere", headers={"X-Long": "x" * 17_000}), 431, "headers-too-large")

    @pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
    def test_exactly_one_host(self, served: Any, hosts: bytes) -> None:
        answer = served.raw(b"GET /health/live HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")

    def test_large_bodies_are_drained_and_refused(self, served: Any) -> None:
        person = served.world.add()
        json_type = {"Content-Type": "application/json"}
        body = b" " * (3 * 1024 * 1024)
        declared = served.call("POST", "/api/orders", person, content=body, headers=json_type)
        assert is_problem(declared, 413, "payload-too-large")
        streamed = served.call("POST", "/api/orders", person, content=iter([body, body]), headers=json_type)
        assert is_problem(streamed, 413, "payload-too-large")
        assert served.call("GET", "/api/orders", person).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            b"Content-Length: 3\r\nTransfer-Encoding: chunked",
            b"Content-Length: 3\r\nContent-Length: 4",
            b"Content-Length: 3\r\nContent-Length: 3",
            b"Content-Length: +3",
            b"Content-Length: 3, 3",
            b"Content-Length: 0x3",
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: identity",
            b"Transfer-Encoding : chunked",
            b"X-Folded: a\r\n b",
            b"X-Null: a\x00b",
            b"X Space: a",
            b": no name",
        ],
    )
    def test_smuggling(self, served: Any, headers: bytes) -> None:
        head = b"POST /api/auth/token HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n"
        answer = served.raw(head + b"abc\r\n\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"application/problem+json" in answer

    @pytest.mark.parametrize(
        "rest",
        [
            b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcGET /health/live HTTP/1.1\r\n0\r\n\r\n",
            b"X-Correlation-ID: a\rSet-Cookie: b\r\n\r\n",
            b"X-Bare: a\nTransfer-Encoding: chunked\n\n",
        ],
        ids=["hexadecimal", "plus", "minus", "chunk too long", "carriage return alone", "line feed alone"],
    )
    def test_smuggling_in_what_follows(self, served: Any, rest: bytes) -> None:
        token = served.token(served.world.add()).encode()
        head = b"POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + b"\r\n"
        answer = served.raw(
            head + b"Content-Type: application/json\r\n" + rest + b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"set-cookie" not in answer.lower()

    def test_a_token_that_is_too_long(self, served: Any) -> None:
        head = b"GET /api/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer "
        assert served.raw(head + b"x" * 20_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")

    @pytest.mark.parametrize("data", [b"not http\r\n\r\n", b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01"])
    def test_what_is_not_http(self, served: Any, data: bytes) -> None:
        answer = served.raw(data)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"bad-request" in answer
        assert b"x-ratelimit-limit: 300" in answer

    def test_headers_without_end(self, served: Any) -> None:
        answer = served.raw(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000)
        assert answer.startswith(b"HTTP/1.1 431")

    def test_a_lie_about_the_length(self, served: Any) -> None:
        token = served.token(served.world.add()).encode()
        head = b"POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + b"\r\nConnection: close\r\n"
        chunk = b"%x\r\n" % 70_000 + b" " * 70_000 + b"\r\n0\r\n\r\n"
        answer = served.raw(head + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        assert answer.startswith(b"HTTP/1.1 413")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/xml"},
            {"Content-Type": "application/json; charset=utf-16"},
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            {},
        ],
    )
    def test_other_media_types(self, served: Any, headers: dict[str, str]) -> None:
        answer = served.call("POST", "/api/orders", served.world.add(), content=b"{}", headers=headers)
        assert is_problem(answer, 415, "unsupported-media-type")


class TestOrderOfChecks:
    """401, 403, 404, 405/413/415, 400, 422: each request is wrong in all the later ways too."""

    def test_401_before_everything(self, served: Any) -> None:
        answer = served.call("POST", "/api/matching/run?x=1", content=b"x" * 70_000)
        assert is_problem(answer, 401, "invalid-token")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    def test_403_before_the_body(self, served: Any) -> None:
        answer = served.call("POST", "/api/matching/run?x=1", served.world.add(), content=b"x" * 70_000)
        assert is_problem(answer, 403, "not-permitted")

    def test_404_for_others_before_parameters(self, served: Any) -> None:
        person, other = served.world.add(), served.world.add()
        for named in (other.customer_id, 2**50, "x", "0", "-1", "1e3", "%00", "٣"):
            assert is_problem(served.call("GET", f"/api/assets/{named}/AAPL?x=1", person), 404, "not-found"), named

    def test_415_before_400_and_400_before_422(self, served: Any) -> None:
        person = served.world.add()
        assert served.call("POST", "/api/orders?x=1", person, content=b"{").status_code == 415
        json_type = {"Content-Type": "application/json"}
        answer = served.call("POST", "/api/orders?x=1", person, content=b"{", headers=json_type)
        assert is_problem(answer, 400, "malformed-json")
        answer = served.call("POST", "/api/orders?x=1", person, json={"size": 1})
        assert is_problem(answer, 400, "idempotency-key-missing")
        answer = served.call("POST", "/api/orders", person, json={"size": 1, "client_order_id": "c"})
        assert is_problem(answer, 422, "validation-error")

    @pytest.mark.parametrize("key", ["", "x" * 129, "a b"])
    def test_invalid_keys(self, served: Any, key: str) -> None:
        answer = served.call("POST", "/api/orders", served.world.add(), json=ORDER, headers={"Idempotency-Key": key})
        assert is_problem(answer, 400, "idempotency-key-invalid")


class TestValues:
    @pytest.mark.parametrize(
        ("change", "pointer", "code"),
        [
            ({"size": "-1"}, "/size", "validation-error"),
            ({"size": 1}, "/size", "validation-error"),
            ({"size": "0"}, "/size", "validation-error"),
            ({"asset_name": "<script>"}, "/asset_name", "validation-error"),
            ({"customer_id": "1"}, "/customer_id", "validation-error"),
            ({"status": "MATCHED"}, "/status", "unknown-field"),
            ({"<img src=x>": 1}, "", "unknown-field"),
        ],
    )
    def test_refusals_name_the_field_and_never_the_input(
        self, served: Any, change: dict[str, Any], pointer: str, code: str
    ) -> None:
        answer = served.call("POST", "/api/orders", served.world.add(), json={**ORDER, **change})
        assert is_problem(answer, 422, code)
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert "<" not in answer.text

    @pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"null"])
    def test_bodies_that_are_no_object(self, served: Any, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
        answer = served.call("POST", "/api/orders", served.world.add(), content=body, headers=headers)
        assert is_problem(answer, 422)
        assert answer.json()["errors"]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("unknown=1", "unknown-field"),
            ("limit=1&limit=9", "unknown-field"),
            ("access_token=x", "unknown-field"),
            ("limit=0", "validation-error"),
            ("limit=-1", "validation-error"),
            ("limit=1000000000", "validation-error"),
            ("limit=1_0", "validation-error"),
            ("limit=", "validation-error"),
            ("asset_name=%00", "validation-error"),
            ("asset_name=%ff", "validation-error"),
            ("created_from=2026-01-01", "validation-error"),
            ("created_from=10000-01-01T00:00:00Z", "validation-error"),
        ],
    )
    def test_query_parameters_are_as_strict(self, served: Any, query: str, code: str) -> None:
        assert is_problem(served.call("GET", f"/api/orders?{query}", served.world.add()), 422, code)

    def test_a_customer_that_is_not_the_callers(self, served: Any) -> None:
        person, other = served.world.add(), served.world.add()
        for named in (other.customer_id, 2**50):
            answer = served.call("POST", "/api/orders", person, json={**ORDER, "customer_id": named})
            assert is_problem(answer, 422)
            assert answer.json()["errors"][0]["pointer"] == "/customer_id"

    def test_a_broker_names_his_own_customers_only(self, served: Any) -> None:
        broker = served.world.add(Role.BROKER)
        mine, other = served.world.add(brokers=frozenset({broker.customer_id})), served.world.add()
        answer = served.call("POST", "/api/orders", broker, json={**ORDER, "customer_id": mine.customer_id})
        assert answer.status_code == 201
        answer = served.call("POST", "/api/orders", broker, json={**ORDER, "customer_id": other.customer_id})
        assert answer.status_code == 422
        assert served.call("GET", f"/api/assets/{mine.customer_id}/AAPL", broker).status_code == 200
        assert served.call("GET", f"/api/assets/{other.customer_id}/AAPL", broker).status_code == 404

    def test_a_bug_is_500_without_its_story(self, served: Any) -> None:
        answer = served.call("GET", "/api/orders?asset_name=BUG", served.world.add())
        assert is_problem(answer, 500, "internal-error")
        assert not re.search("secret|passwd|SELECT|Traceback", answer.text)


class TestIdentity:
    def test_a_change_of_the_account_counts_though_the_token_says_nothing(self, served: Any) -> None:
        person = served.world.add(Role.ADMIN)
        token = {"Authorization": f"Bearer {served.token(person)}"}
        path = "/api/matching/run"
        assert served.client.post(path, headers=token).status_code == 202
        served.world.change(person, role=Role.CUSTOMER)
        time.sleep(0.1)
        assert served.client.post(path, headers=token).status_code == 403
        served.world.change(person, role=Role.ADMIN, active=False)
        time.sleep(0.1)
        assert is_problem(served.client.post(path, headers=token), 401, "invalid-token")
        served.world.change(person, active=True, tokens_valid_from=datetime.now(UTC))
        time.sleep(0.1)
        assert served.client.post(path, headers=token).status_code == 401
        assert served.call("POST", path, person).status_code == 202

    def test_a_signed_out_session(self, served: Any) -> None:
        person = served.world.add()
        gone = {"Authorization": f"Bearer {served.token(person, 'gone')}"}
        assert served.client.get("/api/orders", headers=gone).status_code == 200
        served.valkey.execute_command(*revoke_command("gone"))
        assert served.client.get("/api/orders", headers=gone).status_code == 401
        assert served.call("GET", "/api/orders", person).status_code == 200

    def test_who_has_not_arrived_yet(self, served: Any) -> None:
        person = served.world.add()
        del served.world.people[person.customer_id]
        started = time.monotonic()
        answer = served.call("GET", "/api/orders", person)
        assert is_problem(answer, 503, "not-yet-known")
        assert answer.headers["Retry-After"]
        assert 1.9 < time.monotonic() - started < 4

    def test_who_arrives_in_time(self, served: Any) -> None:
        person = served.world.add()
        held = served.world.people.pop(person.customer_id)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(served.call, "GET", "/api/orders", person)
            time.sleep(0.3)
            served.world.people[person.customer_id] = held
            assert answer.result().status_code == 200

    def test_the_store_is_down(self, served: Any) -> None:
        person = served.world.add()
        served.world.down = True
        try:
            answer = served.call("GET", "/api/orders", person)
            assert is_problem(answer, 503, "service-unavailable")
            assert answer.headers["Retry-After"]
            assert is_problem(served.call("GET", "/api/orders"), 401)
            ready = served.call("GET", "/health/ready")
            assert (ready.status_code, ready.json()["services"]["order_service"]) == (503, "the store is down")
            assert served.call("GET", "/health/live").status_code == 200
        finally:
            served.world.down = False

    def test_a_store_that_hangs_takes_one_thread_however_often_readiness_is_asked(self, served: Any) -> None:
        served.world.hanging.clear()
        served.world.checks = 0
        try:
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: served.call("GET", "/health/ready", timeout=10), range(4)))
            assert {answer.json()["services"]["order_service"] for answer in answers} == {"does not answer"}
            assert served.world.checks == 1
        finally:
            served.world.hanging.set()

    @pytest.mark.parametrize(
        "header", ["Basic dXNlcjpwdw==", "Bearer", "Bearer x", "x", "Bearer a b", "bearer " + "x" * 9000]
    )
    def test_what_is_no_bearer_token(self, served: Any, header: str) -> None:
        answer = served.client.get("/api/orders", headers={"Authorization": header})
        assert is_problem(answer, 401, "invalid-token")

    def test_two_authorization_headers(self, served: Any) -> None:
        bearer = f"Bearer {served.token(served.world.add())}"
        answer = served.client.get("/api/orders", headers=[("Authorization", bearer), ("Authorization", bearer)])
        assert is_problem(answer, 400, "bad-request")


class TestRateLimit:
    def test_by_tier_and_said_on_every_answer(self, served: Any) -> None:
        person = served.world.add(tier="TINY")
        answers = [served.call("GET", "/api/orders", person) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0"]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
        assert answers[0].headers["X-Customer-Tier"] == "TINY"
        refused = served.call("GET", "/api/orders", person)
        assert is_problem(refused, 429, "rate-limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 21
        assert time.time() <= int(refused.headers["X-RateLimit-Reset"]) <= time.time() + 62

    def test_staff_and_strangers(self, served: Any) -> None:
        admin = served.call("GET", "/api/orders", served.world.add(Role.ADMIN, tier="TINY"))
        assert admin.headers["X-RateLimit-Limit"] == "6000"
        assert served.call("GET", "/nowhere").headers["X-RateLimit-Limit"] == "300"

    def test_all_sessions_of_a_customer_have_one_bucket(self, served: Any) -> None:
        person = served.world.add(tier="TINY")
        statuses = [
            served.client.get(
                "/api/orders", headers={"Authorization": f"Bearer {served.token(person, session)}"}
            ).status_code
            for session in "abcd"
        ]
        assert statuses == [200, 200, 200, 429]

    def test_tricks_do_not_make_a_new_stranger(self, served: Any) -> None:
        tricks = [
            {"X-Forwarded-For": "192.0.2.1"},
            {"X-Real-IP": "192.0.2.2"},
            {"X-User-ID": "7"},
            {"Authorization": "Bearer made-up"},
        ]
        left = [
            int(served.call("GET", path, headers=headers).headers["X-RateLimit-Remaining"])
            for headers in tricks
            for path in ("/nowhere", "/NOWHERE", "/nowhere/", "/api/auth/token")
        ]
        assert left == list(range(299, 299 - len(left), -1))

    def test_health_and_metrics_are_free(self, served: Any) -> None:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert served.call("GET", path).status_code == 200
        assert served.call("GET", "/nowhere").headers["X-RateLimit-Remaining"] == "299"

    def test_exact_under_concurrency(self, served: Any) -> None:
        person = served.world.add(tier="STANDARD")
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: served.call("GET", "/api/orders", person), range(150)))
        good = sum(answer.status_code == 200 for answer in answers)
        assert 100 <= good <= 105  # some tokens come back while it runs

    def test_requests_of_one_moment_are_judged_one_after_the_other(self, served: Any, servers: Any) -> None:
        served.valkey.execute_command(*revoke_command("gone"))
        asked = [("a", 2, "s"), ("b", 5, "gone"), ("a", 2, "s"), ("a", 2, "s"), ("b", 5, None)]

        async def judge() -> list[Verdict]:
            valkey = AsyncValkey(servers.env["BROKAGE_REDIS_URL"])
            limiter = RateLimiter(valkey)
            judging = [
                limiter.judge(Allowance(f"rate:{key}", limit), session_id=session, write=True)
                for key, limit, session in asked
            ]
            verdicts = await asyncio.gather(*judging)
            await valkey.close()
            return verdicts

        verdicts = asyncio.run(judge())
        assert [verdict.allowed for verdict in verdicts] == [True, True, True, False, True]
        assert [verdict.remaining for verdict in verdicts] == [1, 4, 0, 0, 3]
        assert [verdict.session_revoked for verdict in verdicts] == [False, True, False, False, False]
        assert verdicts[3].retry_seconds == pytest.approx(30, abs=1)
        assert verdicts[4].reset_seconds == pytest.approx(24, abs=1)

    def test_without_valkey_reads_pass_and_writes_are_limited_here(self, without_valkey: Any) -> None:
        person = without_valkey.world.add(tier="TINY")
        started = time.monotonic()
        reads = [without_valkey.call("GET", "/api/orders", person).status_code for _ in range(10)]
        writes = [without_valkey.call("POST", "/api/orders", person, json=ORDER).status_code for _ in range(5)]
        assert reads == [200] * 10
        assert writes == [201] * 3 + [429] * 2
        assert time.monotonic() - started < 2
        assert 'brokage_rate_limit_open_total{kind="read"}' in without_valkey.call("GET", "/metrics").text


class TestTelemetry:
    def test_records_requests_without_secrets(self, served: Any) -> None:
        person = served.world.add()
        headers = {"X-Secret": "canary-7", "Cookie": "canary-8", "X-Correlation-ID": "telemetry-test"}
        served.call("GET", f"/api/assets/{person.customer_id}/AAPL", person, headers=headers)
        deadline = time.monotonic() + 5
        found: list[Any] = []
        while not found and time.monotonic() < deadline:
            time.sleep(0.1)
            entries = served.valkey.xrange(STREAM)
            assert "canary" not in str(entries)
            assert "Bearer" not in str(entries)
            records = [record for _, fields in entries for record in decode_batch(fields[b"batch"])]
            found = [record for record in records if record.correlation_id == "telemetry-test"]
        [record] = found
        assert record.endpoint == "/api/assets/{customer_id}/{asset_name}"
        assert (record.method, record.status_code, record.user_id) == ("GET", 200, person.customer_id)
        assert isinstance(record.response_time, int)


class TestDocuments:
    def test_openapi_is_3_1_and_every_operation_answers_problems(self, served: Any) -> None:
        document = served.call("GET", "/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        for operations in document["paths"].values():
            for operation in operations.values():
                assert "HTTPValidationError" not in str(operation)
                assert set(operation["responses"]["422"]["content"]) == {"application/problem+json"}
        assert document["paths"]["/api/orders"]["post"]["security"] == [{"bearer": []}]
        assert "x-brokage" not in str(document)

    def test_docs_need_nothing_from_elsewhere(self, served: Any) -> None:
        page = served.call("GET", "/docs")
        assert "place_order" in page.text or "/api/orders" in page.text
        assert not re.search(r"(src|href)=[\"']?https?:", page.text)
        assert "<script" not in page.text

    def test_every_problem_has_a_page(self, served: Any) -> None:
        for code in ("not-found", "malformed-json", "idempotency-key-reused", "validation-error", "rate-limited"):
            page = served.call("GET", f"/problems/{code}")
            assert page.status_code == 200
            assert code in page.text
        assert is_problem(served.call("GET", "/problems/made-up"), 404)


class TestValkeyAway:
    def test_a_black_hole_slows_three_requests_and_no_more(self, key_directory: Any) -> None:
        hole = socket.create_server(("127.0.0.1", 0))  # accepts by its backlog, and never answers
        settings = EdgeSettings(
            redis_url=f"redis://127.0.0.1:{hole.getsockname()[1]}/0", key_dir=str(key_directory), jwks_url=None
        )
        world = World()
        for url in serve(world, settings):
            person = world.add()
            served = Served(world, url, keys.load_signing_key(key_directory), None)
            started = time.monotonic()
            answers = [served.call("GET", "/api/orders", person).status_code for _ in range(30)]
            assert answers == [200] * 30
            assert time.monotonic() - started < 2
        hole.close()
