"""Sessions that ended while access tokens of theirs could still be good, in the table `ended_sessions`.

customer_service writes it in the transaction that ends the session; everywhere else it is a projection of `SessionEnded`.
So an end holds without Valkey, whose mark (`shared.http.limits.revoke_command`) is only faster. A revoked API key is here under
its id, and ends the sessions of all programs that signed in with it.
"""

from collections.abc import Sequence
from typing import Any

from shared.contracts.customers import SessionEnded
from shared.contracts.message import Message
from shared.db import Connection, UnitOfWork

TOKENS_LONGER_SECONDS = 60
"""An end is remembered longer than tokens live, by more than clocks differ and expiry has leeway."""


def ends_in(messages: Sequence[Message[Any]]) -> list[SessionEnded]:
    """The ends of sessions among `messages`; other messages are passed over."""
    return [message.payload for message in messages if isinstance(message.payload, SessionEnded)]


def apply_session_ends(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Bring the table up to these events. Repeats, late arrivals and what is said again change nothing."""
    put_session_ends(uow.connection, ends_in(messages))


def put_session_ends(connection: Connection, ends: Sequence[SessionEnded]) -> None:
    """Store these, and delete some whose tokens have all run out. In ascending order of id, and passing over what others
    hold: two writers cannot deadlock."""
    if not ends:
        return
    newest = {end.session_id: end for end in sorted(ends, key=lambda end: end.tokens_until)}
    rows = [newest[session_id] for session_id in sorted(newest)]
    connection.execute(
        _UPSERT,
        {
            "session_id": [row.session_id for row in rows],
            "customer_id": [row.customer_id for row in rows],
            "tokens_until": [row.tokens_until for row in rows],
        },
    )
    connection.execute(_FORGET)


def find_session_ends(connection: Connection, customer_ids: Sequence[int]) -> list[SessionEnded]:
    """These customers' ended sessions that may still have access tokens."""
    rows = connection.execute(_OF_CUSTOMERS, {"customer_ids": list(customer_ids)}).fetchall()
    return [SessionEnded(**row) for row in rows]


def ended_sessions_of(connection: Connection, customer_id: int) -> list[str]:
    return [end.session_id for end in find_session_ends(connection, [customer_id])]


_UPSERT = """
INSERT INTO ended_sessions AS s (session_id, customer_id, tokens_until)
SELECT * FROM unnest(%(session_id)s::uuid[], %(customer_id)s::bigint[], %(tokens_until)s::timestamptz[])
ON CONFLICT (session_id) DO UPDATE SET tokens_until = excluded.tokens_until
WHERE s.tokens_until < excluded.tokens_until
"""

_FORGET = """
DELETE FROM ended_sessions WHERE session_id = ANY(ARRAY(
    SELECT session_id FROM ended_sessions WHERE tokens_until < (SELECT brokage_now())
    LIMIT 100 FOR UPDATE SKIP LOCKED))
"""

_OF_CUSTOMERS = """
SELECT customer_id, session_id, tokens_until FROM ended_sessions
WHERE customer_id = ANY(%(customer_ids)s) AND tokens_until > (SELECT brokage_now())
ORDER BY session_id
"""
