"""What the services' Alembic environments and migrations share.

A service's `migrations/env.py` is three lines that call `run()`; the helpers below are called from its versions.
"""

import os

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql


def run(metadata: sa.MetaData, url_variable: str) -> None:
    """Migrate the database whose URL is in the environment variable `url_variable`, or given by `-x url=`."""
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ[url_variable]
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
        with context.begin_transaction():
            # Two migrating processes take turns; the second finds nothing left to do.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7461)"))
            context.run_migrations()
    engine.dispose()


def sqlalchemy_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else url


def create_common_tables_v1() -> None:
    """The clock, and the tables every service has, as they were at first. Call first.

    What changes in them later is a migration of every service, and a helper of its own here.
    """
    _clock_offset_v1()
    for create in (_outbox_events_v1, _processed_events_v1, _dead_letters_v1, _idempotency_records_v1, _principals_v1):
        create()


def outbox_payload_as_json_v2() -> None:
    """The payload of a batch is written and read whole: `json` keeps the text, `jsonb` would take it apart and put it together."""
    op.alter_column(
        "outbox_events",
        "payload",
        type_=postgresql.JSON(),
        existing_type=postgresql.JSONB(),
        existing_nullable=False,
        postgresql_using="payload::json",
    )


def _clock_offset_v1() -> None:
    """With `brokage_now()`: the only clock of business statements, `now()` moved by a row that only tests write.

    Statements over many rows say `(SELECT brokage_now())`: asked once, not once a row.
    """
    op.create_table(
        "clock_offset",
        sa.Column("only_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("value", postgresql.INTERVAL(), server_default=sa.text("'0'::interval"), nullable=False),
        sa.CheckConstraint("only_row", name=op.f("ck_clock_offset_one_row")),
        sa.PrimaryKeyConstraint("only_row", name=op.f("pk_clock_offset")),
    )
    op.execute("INSERT INTO clock_offset DEFAULT VALUES")
    op.execute(
        "CREATE FUNCTION brokage_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE "
        "AS 'SELECT now() + (SELECT value FROM clock_offset)'"
    )


def _outbox_events_v1() -> None:
    op.execute("CREATE SEQUENCE outbox_seq")
    op.create_table(
        "outbox_events",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("aggregate_type", sa.Text(), nullable=False),
        sa.Column("aggregate_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("published_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("acked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), server_default="PENDING", nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(acked_at IS NULL) = (status IN ('PENDING', 'SENT'))", name=op.f("ck_outbox_events_acked")),
        sa.CheckConstraint("event_count BETWEEN 1 AND 500", name=op.f("ck_outbox_events_event_count")),
        sa.CheckConstraint("status IN ('PENDING', 'SENT', 'ACKED', 'PARKED')", name=op.f("ck_outbox_events_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox_events")),
        postgresql_with={
            "fillfactor": "70",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_threshold": "500",
        },
    )
    op.create_index("idx_outbox_acked_at", "outbox_events", ["acked_at"], unique=False, postgresql_using="brin")
    op.create_index(
        "idx_outbox_pending",
        "outbox_events",
        ["destination", "lane", "seq"],
        unique=True,
        postgresql_where=sa.text("acked_at IS NULL"),
    )


def _processed_events_v1() -> None:
    op.create_table(
        "processed_events",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("processed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("state IN ('DONE', 'SPLIT')", name=op.f("ck_processed_events_state")),
        sa.PrimaryKeyConstraint("consumer", "event_id", name=op.f("pk_processed_events")),
    )
    op.create_index(
        "idx_processed_events_processed_at", "processed_events", ["processed_at"], unique=False, postgresql_using="brin"
    )


def _dead_letters_v1() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("event_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("aggregate_type", sa.Text(), nullable=False),
        sa.Column("aggregate_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("resolved_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(resolved_at IS NULL) = (status <> 'REQUEUED')", name=op.f("ck_dead_letters_resolved")),
        sa.CheckConstraint("status IN ('PARKED', 'HELD', 'REQUEUED')", name=op.f("ck_dead_letters_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("consumer", "event_id", name=op.f("uq_dead_letters_consumer_event_id")),
    )
    op.create_index(
        "idx_dead_letters_open",
        "dead_letters",
        ["consumer", "aggregate_id", "position"],
        unique=False,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )


def _idempotency_records_v1() -> None:
    op.create_table(
        "idempotency_records",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.PrimaryKeyConstraint("principal", "method", "route", "key", name=op.f("pk_idempotency_records")),
    )


def _principals_v1() -> None:
    op.create_table(
        "principals",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("tier_priority", sa.Integer(), nullable=False),
        sa.Column("rate_limit", sa.Integer(), nullable=False),
        sa.Column("fee_rate", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("fee_minimum", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("tokens_valid_from", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("beneficial_owner_id", sa.BigInteger(), nullable=False),
        sa.Column("brokers", postgresql.ARRAY(sa.BigInteger()), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("pk_principals")),
    )


def add_parked_batches_v3() -> None:
    """Outbox batches that wait for a person, found without a look at the others."""
    op.add_column(
        "outbox_events",
        sa.Column("parked", sa.Boolean(), sa.Computed("status = 'PARKED'", persisted=True), nullable=True),
    )
    op.create_index(
        "idx_outbox_parked", "outbox_events", ["acked_at"], unique=False, postgresql_where=sa.text("parked")
    )


def add_ended_sessions_v4() -> None:
    """Sessions whose access tokens are refused though they have not run out."""
    op.create_table(
        "ended_sessions",
        sa.Column("session_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("tokens_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_ended_sessions")),
    )
    op.create_index("idx_ended_sessions_customer_id", "ended_sessions", ["customer_id"], unique=False)
    op.create_index("idx_ended_sessions_tokens_until", "ended_sessions", ["tokens_until"], unique=False)


def append_only(table: str) -> None:
    """Refuse UPDATE, DELETE and TRUNCATE on `table` by trigger, whoever asks."""
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
