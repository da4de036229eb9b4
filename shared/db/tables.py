"""Tables that every Postgres service has: outbox, inbox, dead letters, clock, idempotency, principals, ended sessions."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from shared.db.base import AMOUNT, NOW, TIMESTAMP, UUID, created_at


def declare_common_tables(metadata: sa.MetaData) -> None:
    outbox_events(metadata)
    processed_events(metadata)
    dead_letters(metadata)
    clock_offset(metadata)
    idempotency_records(metadata)
    principals(metadata)
    ended_sessions(metadata)


def outbox_events(metadata: sa.MetaData) -> sa.Table:
    """Batches on their way out. Unanswered ones (`acked_at` null) are in the only index that changes, and leave it once."""
    return sa.Table(
        "outbox_events",
        metadata,
        sa.Column("id", UUID, primary_key=True),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("lane", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Sequence("outbox_seq", metadata=metadata), nullable=False),
        sa.Column("aggregate_type", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        # Text that is valid JSON: written and read whole, so nothing is gained by taking it apart.
        sa.Column("payload", postgresql.JSON, nullable=False),
        sa.Column("event_count", sa.Integer, nullable=False),
        created_at(),
        sa.Column("published_at", TIMESTAMP),
        sa.Column("acked_at", TIMESTAMP),
        sa.Column("status", sa.Text, nullable=False, server_default="PENDING"),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_until", TIMESTAMP),
        # Its own column: an index whose predicate says `status` would be written at every step.
        sa.Column("parked", sa.Boolean, sa.Computed("status = 'PARKED'", persisted=True)),
        sa.CheckConstraint("status IN ('PENDING', 'SENT', 'ACKED', 'PARKED')", name="status"),
        sa.CheckConstraint("event_count BETWEEN 1 AND 500", name="event_count"),
        sa.CheckConstraint("(acked_at IS NULL) = (status IN ('PENDING', 'SENT'))", name="acked"),
        sa.Index(
            "idx_outbox_pending",
            "destination",
            "lane",
            "seq",
            unique=True,
            postgresql_where=sa.text("acked_at IS NULL"),
        ),
        sa.Index("idx_outbox_parked", "acked_at", postgresql_where=sa.text("parked")),
        sa.Index(
            "idx_outbox_acked_at",
            "acked_at",
            postgresql_using="brin",
        ),
        postgresql_with={
            "fillfactor": "70",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_threshold": "500",
        },
    )


def processed_events(metadata: sa.MetaData) -> sa.Table:
    """What was received: a batch by its id, or single events once their batch was split."""
    return sa.Table(
        "processed_events",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("event_id", UUID, primary_key=True),
        sa.Column("event_type", sa.Text),
        sa.Column("result", postgresql.JSONB),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("processed_at", TIMESTAMP, nullable=False, server_default=NOW),
        sa.CheckConstraint("state IN ('DONE', 'SPLIT')", name="state"),
        sa.Index("idx_processed_events_processed_at", "processed_at", postgresql_using="brin"),
    )


def dead_letters(metadata: sa.MetaData) -> sa.Table:
    """Events that were given up (PARKED), and later ones of the same aggregate that wait behind them (HELD), by `position`."""
    return sa.Table(
        "dead_letters",
        metadata,
        sa.Column("id", UUID, primary_key=True),
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("event_id", UUID, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("aggregate_type", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", postgresql.JSONB, nullable=False),
        created_at(),
        sa.Column("resolved_at", TIMESTAMP),
        sa.CheckConstraint("status IN ('PARKED', 'HELD', 'REQUEUED')", name="status"),
        sa.CheckConstraint("(resolved_at IS NULL) = (status <> 'REQUEUED')", name="resolved"),
        sa.UniqueConstraint("consumer", "event_id"),
        sa.Index(
            "idx_dead_letters_open",
            "consumer",
            "aggregate_id",
            "position",
            postgresql_where=sa.text("resolved_at IS NULL"),
        ),
    )


def clock_offset(metadata: sa.MetaData) -> sa.Table:
    """One row that only tests write: how far `brokage_now()` is from `now()`."""
    return sa.Table(
        "clock_offset",
        metadata,
        sa.Column("only_row", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("value", postgresql.INTERVAL, nullable=False, server_default=sa.text("'0'::interval")),
        sa.CheckConstraint("only_row", name="one_row"),
    )


def idempotency_records(metadata: sa.MetaData) -> sa.Table:
    """Answers to repeat, written in the transaction of the effect."""
    return sa.Table(
        "idempotency_records",
        metadata,
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("method", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("resource_id", sa.Text),
        created_at(),
    )


def principals(metadata: sa.MetaData) -> sa.Table:
    """Who may act: a projection of customer_service's events, guarded by the customer's version."""
    return sa.Table(
        "principals",
        metadata,
        sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("organization_id", UUID, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("tier_priority", sa.Integer, nullable=False),
        sa.Column("rate_limit", sa.Integer, nullable=False),
        sa.Column("fee_rate", AMOUNT, nullable=False),
        sa.Column("fee_minimum", AMOUNT, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("tokens_valid_from", TIMESTAMP, nullable=False),
        sa.Column("beneficial_owner_id", sa.BigInteger, nullable=False),
        sa.Column("brokers", postgresql.ARRAY(sa.BigInteger), nullable=False, server_default="{}"),
    )


def ended_sessions(metadata: sa.MetaData) -> sa.Table:
    """Whose access tokens are refused though they have not run out (`shared/auth/ended_sessions.py`); a few minutes' worth."""
    return sa.Table(
        "ended_sessions",
        metadata,
        # Of a program: its API key's id.
        sa.Column("session_id", UUID, primary_key=True),
        sa.Column("customer_id", sa.BigInteger, nullable=False),
        sa.Column("tokens_until", TIMESTAMP, nullable=False),
        sa.Index("idx_ended_sessions_customer_id", "customer_id"),
        sa.Index("idx_ended_sessions_tokens_until", "tokens_until"),
    )
