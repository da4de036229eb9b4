"""An HTTP client that says exactly what it knows: an answer, or that none came. It never repeats anything by itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.faults.history import Attempt, History, Outcome, Request

TIMEOUT_SECONDS = 15.0
_KNOWN_NO_EFFECT = {401, 429}
_STILL_RUNNING = "idempotency-key-in-use"


class NoAnswer(Exception):
    """The connection failed or nothing came in time: whether the request had its effect is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def code(self) -> str | None:
        """The problem's slug."""
        try:
            document = self.document
        except ValueError:
            return None
        return document.get("code") if isinstance(document, dict) else None


class Http:
    """One connection per thread to one address; `hang_up` ends the next exchange before its answer is read."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None and parts.port is not None, url
        self._host, self._port = parts.hostname, parts.port
        self._local = threading.local()

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        body: bytes | None = None,
        timeout: float = TIMEOUT_SECONDS,
        hang_up: bool = False,
    ) -> Answer:
        """Raises NoAnswer."""
        connection = self._connection(timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            if hang_up:
                raise NoAnswer("we hung up")
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            self.forget()
            raise NoAnswer(f"{type(error).__name__}: {error}"[:200]) from None
        except NoAnswer:
            self.forget()
            raise

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def forget(self) -> None:
        """Close this thread's connection."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
            self._local.connection = None


@dataclass(slots=True)
class Session:
    """Somebody's token."""

    username: str
    password: str
    customer_id: int = 0
    role: str = "CUSTOMER"
    token: str | None = None


class Client:
    """Sends requests of a history for signed-in users and writes down what became of each.

    `judge` sees every answer: rules that hold for all answers are checked there.
    """

    def __init__(self, http: Http, history: History, judge: Callable[[Session, Request, Answer], None]) -> None:
        self.http = http
        self.history = history
        self._judge = judge

    def sign_in(self, session: Session) -> bool:
        """Get a token; False when that did not work now."""
        request = self.history.new("sign_in", session.username, session.customer_id, "POST", "/api/auth/token")
        form = {"grant_type": "password", "username": session.username, "password": session.password}
        attempt = self._send(
            request,
            session,
            urllib.parse.urlencode(form).encode(),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        if attempt.outcome is not Outcome.OK:
            return False
        session.token = attempt.answer["access_token"]
        attempt.answer = None  # the token is nobody's business but the session's
        return True

    def attempt(
        self, request: Request, session: Session, *, timeout: float = TIMEOUT_SECONDS, hang_up: bool = False
    ) -> Attempt:
        """Send it once, signed in; a token that has run out is renewed first, which is no attempt."""
        for _ in range(2):
            if session.token is None and not self.sign_in(session):
                break
            headers = {"Authorization": f"Bearer {session.token}"}
            if request.keyed_by == "header" and request.key is not None:
                headers["Idempotency-Key"] = request.key
            body = None
            if request.body is not None:
                headers["Content-Type"] = "application/json"
                body = json.dumps(request.body).encode()
            attempt = self._send(request, session, body, headers, timeout=timeout, hang_up=hang_up)
            if attempt.status != 401:
                return attempt
            session.token = None
        attempt = self.history.sending(request)
        attempt.outcome, attempt.error = Outcome.REFUSED, "could not sign in"
        self.history.ended(request, attempt)
        return attempt

    def _send(
        self,
        request: Request,
        session: Session,
        body: bytes | None,
        headers: dict[str, str],
        *,
        timeout: float = TIMEOUT_SECONDS,
        hang_up: bool = False,
    ) -> Attempt:
        attempt = self.history.sending(request)
        try:
            answer = self.http.send(
                request.method, request.path, headers=headers, body=body, timeout=timeout, hang_up=hang_up
            )
        except NoAnswer as error:
            attempt.error = str(error)
        else:
            attempt.status, attempt.outcome = answer.status, outcome_of(answer)
            if attempt.outcome is Outcome.OK:
                attempt.answer = answer.document
            else:
                attempt.code = answer.code
            self._judge(session, request, answer)
        self.history.ended(request, attempt)
        return attempt


def outcome_of(answer: Answer) -> Outcome:
    """503 promises nothing: the commit's own answer may have been what was lost."""
    if answer.status < 400:
        return Outcome.OK
    if answer.status >= 500 or (answer.status == 409 and answer.code == _STILL_RUNNING):
        return Outcome.UNKNOWN
    return Outcome.REFUSED


def refused_for_now(attempt: Attempt) -> bool:
    """Whether the same request may be answered otherwise a moment later."""
    return attempt.status in _KNOWN_NO_EFFECT or attempt.error == "could not sign in"
