"""Customers, tiers, preferences, brokers' customers, refresh tokens; the tiers of the contract."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables_v1()
    _customer_tiers()
    _customers()
    _notification_preferences()
    _broker_customers()
    _refresh_tokens()
    _sign_in_failures()
    op.execute(
        "INSERT INTO customer_tiers (tier_code, tier_name, priority, rate_limit) VALUES "
        "('VIP', 'VIP', 1, 1000), ('PREMIUM', 'Premium', 2, 500), ('STANDARD', 'Standard', 3, 100)"
    )


def _customer_tiers() -> None:
    op.create_table(
        "customer_tiers",
        sa.Column("tier_code", sa.Text(), nullable=False),
        sa.Column("tier_name", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("rate_limit", sa.Integer(), nullable=False),
        sa.Column("monthly_fee", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("fee_rate", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("fee_minimum", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.CheckConstraint(
            "fee_rate >= 0 AND fee_rate < 1 AND fee_minimum >= 0 AND monthly_fee >= 0",
            name=op.f("ck_customer_tiers_fees"),
        ),
        sa.CheckConstraint("rate_limit > 0", name=op.f("ck_customer_tiers_rate_limit")),
        sa.PrimaryKeyConstraint("tier_code", name=op.f("pk_customer_tiers")),
    )


def _customers() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("full_name", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), server_default="CUSTOMER", nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("beneficial_owner_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "tokens_valid_from",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("'epoch'::timestamptz"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("email = lower(email)", name=op.f("ck_customers_email")),
        sa.CheckConstraint("role IN ('ADMIN', 'BROKER', 'CUSTOMER', 'AUDITOR')", name=op.f("ck_customers_role")),
        sa.CheckConstraint("username = lower(username)", name=op.f("ck_customers_username")),
        sa.ForeignKeyConstraint(
            ["beneficial_owner_id"], ["customers.id"], name=op.f("fk_customers_beneficial_owner_id")
        ),
        sa.ForeignKeyConstraint(["tier"], ["customer_tiers.tier_code"], name=op.f("fk_customers_tier")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
        sa.UniqueConstraint("email", name=op.f("uq_customers_email")),
        sa.UniqueConstraint("username", name=op.f("uq_customers_username")),
    )
    op.create_index(
        "idx_customers_brokers", "customers", ["id"], unique=False, postgresql_where=sa.text("role = 'BROKER'")
    )


def _notification_preferences() -> None:
    op.create_table(
        "notification_preferences",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("email_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("sms_enabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("push_enabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "preferences",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_notification_preferences_customer_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_preferences")),
        sa.UniqueConstraint("customer_id", name=op.f("uq_notification_preferences_customer_id")),
    )


def _broker_customers() -> None:
    op.create_table(
        "broker_customers",
        sa.Column("broker_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("assigned_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("broker_id <> customer_id", name=op.f("ck_broker_customers_not_himself")),
        sa.ForeignKeyConstraint(["broker_id"], ["customers.id"], name=op.f("fk_broker_customers_broker_id")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_broker_customers_customer_id")),
        sa.PrimaryKeyConstraint("broker_id", "customer_id", name=op.f("pk_broker_customers")),
    )
    op.create_index("idx_broker_customers_customer_id", "broker_customers", ["customer_id"], unique=False)


def _refresh_tokens() -> None:
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("family_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("family_expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("rotated_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_refresh_tokens_customer_id")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_refresh_tokens")),
    )
    op.create_index(
        "idx_refresh_tokens_customer_id",
        "refresh_tokens",
        ["customer_id"],
        unique=False,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_index("idx_refresh_tokens_family_id", "refresh_tokens", ["family_id"], unique=False)
    op.create_index(
        "idx_refresh_tokens_live",
        "refresh_tokens",
        ["family_id"],
        unique=True,
        postgresql_where=sa.text("rotated_at IS NULL AND revoked_at IS NULL"),
    )


def _sign_in_failures() -> None:
    op.create_table(
        "sign_in_failures",
        sa.Column("account_digest", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column(
            "last_failed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("account_digest", name=op.f("pk_sign_in_failures")),
    )
    op.create_index("idx_sign_in_failures_last_failed_at", "sign_in_failures", ["last_failed_at"], unique=False)
