"""What the clients know, and how they learn it."""

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from infra.faults.client import Answer, Client, Http, Session
from infra.faults.history import Attempt, History, Outcome, Request
from infra.faults.judge import Judge, Violations
from infra.faults.people import People
from infra.faults.rest import open_questions


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.jsonl") as history:
        yield history


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]


def attempted(*outcomes: Outcome) -> Request:
    request = Request(1, "place", "a", 1, "POST", "/api/orders", key="k", keyed_by="header")
    request.attempts = [Attempt(outcome, answer={"id": "1"} if outcome is Outcome.OK else None) for outcome in outcomes]
    return request


class TestHistory:
    def test_a_request_is_written_down_before_it_is_sent(self, history: History, tmp_path: Path) -> None:
        request = history.new("place", "a", 1, "POST", "/api/orders", body={"size": "1"}, key="k", keyed_by="header")
        attempt = history.sending(request)
        (line,) = lines(tmp_path)
        assert (line["send"], line["attempt"], line["key"], line["body"]) == (1, 1, "k", {"size": "1"})
        attempt.outcome, attempt.status = Outcome.OK, 201
        history.ended(request, attempt)
        assert lines(tmp_path)[1].items() >= {"end": 1, "attempt": 1, "outcome": "ok", "status": 201}.items()

    def test_counts_are_by_kind_and_outcome(self, history: History) -> None:
        history.new("place", "a", 1, "POST", "/")
        assert history.counts() == {"place": {"unknown": 1}}


class TestOutcome:
    @pytest.mark.parametrize(
        ("attempts", "outcome"),
        [
            ((Outcome.UNKNOWN, Outcome.OK), Outcome.OK),
            ((Outcome.REFUSED,), Outcome.REFUSED),
            # The refusal may have come before the first attempt had its effect.
            ((Outcome.UNKNOWN, Outcome.REFUSED), Outcome.UNKNOWN),
            ((), Outcome.UNKNOWN),
        ],
    )
    def test_is_what_all_attempts_together_tell(self, attempts: tuple[Outcome, ...], outcome: Outcome) -> None:
        assert attempted(*attempts).outcome is outcome

    def test_what_was_asked_at_the_end_decides(self) -> None:
        request = attempted(Outcome.UNKNOWN, Outcome.REFUSED)
        request.resolved = Outcome.REFUSED
        assert request.outcome is Outcome.REFUSED

    def test_every_open_question_is_asked_again(self) -> None:
        unknown, known = attempted(Outcome.UNKNOWN, Outcome.OK), attempted(Outcome.OK)
        read = Request(2, "read", "a", 1, "GET", "/", attempts=[Attempt()])
        cancel = Request(3, "cancel", "a", 1, "DELETE", "/", keyed_by="path", attempts=[Attempt()])
        asked = open_questions([unknown, known, read, cancel], seed=1)
        assert unknown in asked
        assert cancel in asked
        assert read not in asked


class _Handler(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = self.answers.pop(0)
        if not status:
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


PROBLEM = {"Content-Type": "application/problem+json"}


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class TestClient:
    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [
            ((201, {"Content-Type": "application/json"}, b'{"id": "1"}'), Outcome.OK),
            ((422, PROBLEM, b'{"code": "validation-error"}'), Outcome.REFUSED),
            ((503, {**PROBLEM, "Retry-After": "1"}, b'{"code": "unavailable"}'), Outcome.UNKNOWN),
            ((409, PROBLEM, b'{"code": "idempotency-key-in-use"}'), Outcome.UNKNOWN),
            ((409, PROBLEM, b'{"code": "order-already-final"}'), Outcome.REFUSED),
            ((0, {}, b""), Outcome.UNKNOWN),
        ],
    )
    def test_says_what_it_knows(self, history: History, url: str, answer: Any, outcome: Outcome) -> None:
        _Handler.answers = [answer]
        client = Client(Http(url), history, lambda session, request, answer: None)
        request = history.new("place", "a", 1, "POST", "/api/orders", body={}, key="k", keyed_by="header")
        assert client.attempt(request, Session("a", "p", token="t")).outcome is outcome
        assert request.outcome is outcome

    def test_who_hangs_up_knows_nothing(self, history: History, url: str) -> None:
        _Handler.answers = [(201, {}, b"{}")]
        client = Client(Http(url), history, lambda session, request, answer: None)
        request = history.new("place", "a", 1, "POST", "/api/orders", body={}, key="k", keyed_by="header")
        attempt = client.attempt(request, Session("a", "p", token="t"), hang_up=True)
        assert (attempt.outcome, attempt.error) == (Outcome.UNKNOWN, "we hung up")


class TestJudge:
    @pytest.fixture
    def violations(self) -> Violations:
        return Violations()

    @pytest.fixture
    def customer(self) -> Session:
        return Session("c", "p", 7)

    @pytest.fixture
    def judge(self, violations: Violations, customer: Session) -> Judge:
        staff = Session("s", "p", 1, "ADMIN")
        return Judge(People(staff, staff, Session("b", "p", 2, "BROKER"), [customer], []), violations)

    def see(
        self, judge: Judge, session: Session, status: int, body: Any, headers: dict[str, str] | None = None
    ) -> None:
        message = http.client.HTTPMessage()
        for name, value in (headers or {}).items():
            message[name] = value
        request = Request(1, "read", session.username, session.customer_id, "GET", "/api/orders")
        judge(session, request, Answer(status, message, json.dumps(body).encode()))

    def test_another_customers_thing_is_a_violation(
        self, judge: Judge, customer: Session, violations: Violations
    ) -> None:
        self.see(judge, customer, 200, {"data": [{"customer_id": 7}]})
        assert violations.total == 0
        self.see(judge, customer, 200, {"data": [{"customer_id": 7}, {"customer_id": 8}]})
        assert dict(violations.counts) == {"55 scope": 1}

    def test_a_broker_sees_whom_he_serves(self, judge: Judge, violations: Violations) -> None:
        broker = Session("b", "p", 2, "BROKER")
        self.see(judge, broker, 200, {"customer_id": 7})
        assert violations.total == 0
        self.see(judge, broker, 200, {"customer_id": 9})
        assert violations.total == 1

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(500, PROBLEM), (502, PROBLEM), (503, PROBLEM), (404, {"Content-Type": "text/html"})],
    )
    def test_what_no_error_may_look_like(
        self, judge: Judge, customer: Session, violations: Violations, status: int, headers: dict[str, str]
    ) -> None:
        self.see(judge, customer, status, {}, headers)
        assert dict(violations.counts) == {"58 answers": 1}

    def test_503_that_says_when_to_come_again_is_none(
        self, judge: Judge, customer: Session, violations: Violations
    ) -> None:
        self.see(judge, customer, 503, {}, {**PROBLEM, "Retry-After": "1"})
        assert violations.total == 0

    def test_nothing_leaves_a_final_status(self, judge: Judge, customer: Session, violations: Violations) -> None:
        for status in ("ORDER_CONFIRMED", "MATCHED", "MATCHED"):
            self.see(judge, customer, 200, {"id": "1", "customer_id": 7, "filled_size": "1", "status": status})
        assert violations.total == 0
        self.see(judge, customer, 200, {"id": "1", "customer_id": 7, "filled_size": "1", "status": "CANCELED"})
        assert dict(violations.counts) == {"16 final is final": 1}
