"""`Idempotency-Key`: true by a row in the transaction of the effect, fast by a mark in Valkey. Source: contract,
Idempotency.

A use case that takes a key does, in its transaction: `claim`, its effect, `complete`. `claim` answers what the first
call answered; the endpoint then shows that thing as it is now, with `replayed_headers`.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared import json
from shared.db import Connection
from shared.errors import BrokageError, Conflict, ValidationFailed
from shared.faults import fault
from shared.http.valkey import Script, Unavailable, Valkey

KEPT_HOURS = 24
IN_FLIGHT_MILLISECONDS = 10_000
_CACHED_SECONDS = 600
_KEY = re.compile(r"[!-~]{1,128}", re.ASCII)
REPLAYED_HEADERS = {"Idempotent-Replayed": "true"}


class IdempotencyKeyMissing(BrokageError):
    """Where money or orders change, send an `Idempotency-Key` header of your own making (1 to 128 visible
    characters), the same
    on every repeat of the same request; or a `client_order_id` or `reference` in the body where the call has one."""

    code = "idempotency-key-missing"
    status = 400
    title = "Idempotency-Key missing"


class IdempotencyKeyInvalid(BrokageError):
    """An `Idempotency-Key` is one header of 1 to 128 visible ASCII characters."""

    code = "idempotency-key-invalid"
    status = 400
    title = "Idempotency-Key invalid"


class IdempotencyKeyReused(ValidationFailed):
    """This `Idempotency-Key` was used in the last 24 hours for another request. Take a new one. Nothing was stored."""

    code = "idempotency-key-reused"
    title = "Idempotency-Key reused"


class IdempotencyKeyInUse(Conflict):
    """The first request with this `Idempotency-Key` is still running. Repeat in a moment, with the same key."""

    code = "idempotency-key-in-use"
    title = "Idempotency-Key in use"


@dataclass(frozen=True, slots=True)
class KeyScope:
    """Within which a key means one request. `route` is the path's template."""

    principal: str
    method: str
    route: str
    key: str

    @property
    def mark(self) -> str:
        """The name of the key's mark in Valkey; a digest, so that no character of the caller's is in it."""
        text = "\x1f".join((self.principal, self.method, self.route, self.key))
        return "idempotency:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """A request that came with a key. `digest` is over its path and body, independent of the order of fields and of
    spaces."""

    scope: KeyScope
    digest: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What the first call answered: the status, and the id of the thing to show. `replayed` is false for the first
    itself."""

    status_code: int
    resource_id: str
    replayed: bool = True


class Outcome:
    """Where the body of `IdempotencyMarks.held` leaves its answer."""

    replay: Replay


def parse_key(headers: Sequence[str]) -> str | None:
    """The key of a request's `Idempotency-Key` headers; None when there is none.

    Raises:
        IdempotencyKeyInvalid: empty, too long, not visible ASCII, or more than one.
    """
    if not headers:
        return None
    if len(headers) > 1 or not _KEY.fullmatch(headers[0]):
        raise IdempotencyKeyInvalid()
    return headers[0]


def digest_of(path: str, document: Any) -> str:
    """Over the values, not the bytes: a repeat may order its fields otherwise."""
    return hashlib.sha256(path.encode() + b"\x00" + _canonical(document)).hexdigest()


def _canonical(document: Any) -> bytes:
    if isinstance(document, dict):
        # A digest that is stored must not be a way to try passwords.
        names = sorted(name for name in document if "password" not in name)
        return b"{" + b",".join(json.dumps(name) + b":" + _canonical(document[name]) for name in names) + b"}"
    if isinstance(document, list):
        return b"[" + b",".join(map(_canonical, document)) + b"]"
    return json.dumps(document)


def claim(connection: Connection, scope: KeyScope, digest: str) -> Replay | None:
    """Make the key this request's, or say what its first request answered. First in the transaction of the effect.

    A second request with the same key waits here until the first one's transaction ends.

    Raises:
        IdempotencyKeyReused: the key belongs to another request.
    """
    parameters = {**_columns(scope), "request_digest": digest, "kept_hours": KEPT_HOURS}
    if connection.execute(_CLAIM, parameters).fetchone() is not None:
        return None
    row = connection.execute(_FIND, parameters).fetchone()
    if row is None or row["status_code"] is None:
        raise IdempotencyKeyInUse()  # the first one rolled back or was overwritten in between
    if row["request_digest"] != digest:
        raise IdempotencyKeyReused()
    return Replay(row["status_code"], row["resource_id"])


def complete(connection: Connection, scope: KeyScope, *, status_code: int, resource_id: str) -> Replay:
    """Keep the answer of a claimed key, in the same transaction."""
    connection.execute(_COMPLETE, {**_columns(scope), "status_code": status_code, "resource_id": resource_id})
    return Replay(status_code, resource_id, replayed=False)


def delete_expired(connection: Connection, limit: int = 1000) -> int:
    """Delete keys older than 24 h, at most `limit`; the number deleted. For a timer of the service."""
    return connection.execute(_DELETE_EXPIRED, {"kept_hours": KEPT_HOURS, "limit": limit}).rowcount


class IdempotencyMarks:
    """Valkey's part: it refuses a second request while the first runs, and answers a repeat without a transaction.

    Both are optional: while Valkey is away, `begin` lets everybody through to `claim`.
    """

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    def begin(self, call: IdempotentCall) -> Replay | None:
        """Mark the key as running.

        Raises:
            IdempotencyKeyInUse: it is running elsewhere. The mark of a dead process ends within 10 s.
            IdempotencyKeyReused: it belongs to another request.
        """
        try:
            found = self._valkey.run(_BEGIN, [call.scope.mark], [call.digest, IN_FLIGHT_MILLISECONDS])
        except Unavailable:
            return None
        if found is None:
            fault("idempotency.marked")
            return None
        state, digest, *answer = found.decode().split(" ", 3)
        if digest != call.digest:
            raise IdempotencyKeyReused()
        if state == "running":
            raise IdempotencyKeyInUse()
        return Replay(int(answer[0]), answer[1])

    @contextmanager
    def held(self, call: IdempotentCall | None) -> Iterator[Outcome]:
        """Around the transaction of a call that `begin` has marked: its mark becomes the answer, or goes if there is
        none."""
        outcome = Outcome()
        try:
            yield outcome
        except BaseException:
            if call is not None:
                self.abandon(call)
            raise
        fault("idempotency.committed")
        if call is not None:
            self.finish(call, outcome.replay)
        fault("idempotency.answered")

    def finish(self, call: IdempotentCall, replay: Replay) -> None:
        """After the commit: repeats are answered from here for a while."""
        value = f"done {call.digest} {replay.status_code} {replay.resource_id}"
        self._forgiving("SET", call.scope.mark, value, "EX", _CACHED_SECONDS)

    def abandon(self, call: IdempotentCall) -> None:
        """The request was refused or failed: the next one with the key starts afresh."""
        self._forgiving("DEL", call.scope.mark)

    def _forgiving(self, *command: str | int) -> None:
        try:
            self._valkey.command(*command)
        except Unavailable:
            return


def _columns(scope: KeyScope) -> dict[str, str]:
    return {"principal": scope.principal, "method": scope.method, "route": scope.route, "key": scope.key}


_CLAIM = """
INSERT INTO idempotency_records AS r (principal, method, route, key, request_digest)
VALUES (%(principal)s, %(method)s, %(route)s, %(key)s, %(request_digest)s)
ON CONFLICT (principal, method, route, key) DO UPDATE
SET request_digest = excluded.request_digest, status_code = NULL, resource_id = NULL, created_at = brokage_now()
WHERE r.created_at < brokage_now() - make_interval(hours => %(kept_hours)s)
RETURNING 1
"""

_FIND = """
SELECT request_digest, status_code, resource_id FROM idempotency_records
WHERE principal = %(principal)s AND method = %(method)s AND route = %(route)s AND key = %(key)s
"""

_COMPLETE = """
UPDATE idempotency_records SET status_code = %(status_code)s, resource_id = %(resource_id)s
WHERE principal = %(principal)s AND method = %(method)s AND route = %(route)s AND key = %(key)s
"""

_DELETE_EXPIRED = """
DELETE FROM idempotency_records WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_records WHERE created_at < brokage_now() - make_interval(hours => %(kept_hours)s)
    LIMIT %(limit)s
))
"""

_BEGIN = Script("""
local value = redis.call('GET', KEYS[1])
if value then return value end
redis.call('SET', KEYS[1], 'running ' .. ARGV[1], 'PX', ARGV[2])
return false
""")
