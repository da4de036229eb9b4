"""Tables of `brokage_customers`."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from shared.auth.permissions import Role
from shared.db.base import AMOUNT, NOW, TIMESTAMP, UUID, created_at, new_metadata, one_of, updated_at, version
from shared.ids import ROOT_ORGANIZATION_ID

metadata = new_metadata()


class Tier(StrEnum):
    """The tiers a new system starts with; others may be added as rows."""

    VIP = "VIP"
    PREMIUM = "PREMIUM"
    STANDARD = "STANDARD"


customer_tiers = sa.Table(
    "customer_tiers",
    metadata,
    sa.Column("tier_code", sa.Text, primary_key=True),
    sa.Column("tier_name", sa.Text, nullable=False),
    # Lower comes first in matching.
    sa.Column("priority", sa.Integer, nullable=False),
    # Requests a minute.
    sa.Column("rate_limit", sa.Integer, nullable=False),
    sa.Column("monthly_fee", AMOUNT, nullable=False, server_default="0"),
    # Copied onto an order when it is accepted.
    sa.Column("fee_rate", AMOUNT, nullable=False, server_default="0"),
    sa.Column("fee_minimum", AMOUNT, nullable=False, server_default="0"),
    sa.CheckConstraint("rate_limit > 0", name="rate_limit"),
    sa.CheckConstraint("fee_rate >= 0 AND fee_rate < 1 AND fee_minimum >= 0 AND monthly_fee >= 0", name="fees"),
)

customers = sa.Table(
    "customers",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("organization_id", UUID, nullable=False, server_default=ROOT_ORGANIZATION_ID),
    sa.Column("username", sa.Text, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("email", sa.Text, unique=True),
    # Sealed (customer_service/personal.py), all under the key that the last of them names.
    sa.Column("phone", sa.Text),
    sa.Column("national_id", sa.Text),
    sa.Column("iban", sa.Text),
    sa.Column("personal_key_version", sa.SmallInteger),
    sa.Column("full_name", sa.Text),
    sa.Column("role", sa.Text, nullable=False, server_default=Role.CUSTOMER.value),
    sa.Column("tier", sa.Text, sa.ForeignKey(customer_tiers.c.tier_code), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    # Who really owns the account; nobody trades with himself through two of them. Null is the customer himself.
    sa.Column("beneficial_owner_id", sa.BigInteger, sa.ForeignKey("customers.id")),
    # Access tokens issued before are refused. The machine's time, as the tokens' own.
    sa.Column("tokens_valid_from", TIMESTAMP, nullable=False, server_default=sa.text("'epoch'::timestamptz")),
    version(),
    created_at(),
    updated_at(),
    sa.CheckConstraint(one_of("role", Role), name="role"),
    sa.CheckConstraint("username = lower(username)", name="username"),
    sa.CheckConstraint("email = lower(email)", name="email"),
    sa.CheckConstraint(
        "num_nonnulls(phone, national_id, iban) = 0 OR personal_key_version IS NOT NULL", name="personal_key_version"
    ),
)
sa.Index("idx_customers_brokers", customers.c.id, postgresql_where=sa.text("role = 'BROKER'"))
# A rotation asks for what is not under the current key; a row's key changes at a rotation and with its data only.
sa.Index(
    "idx_customers_personal_key_version",
    customers.c.personal_key_version,
    postgresql_where=sa.text("personal_key_version IS NOT NULL"),
)

notification_preferences = sa.Table(
    "notification_preferences",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey(customers.c.id), nullable=False, unique=True),
    sa.Column("email_enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("sms_enabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("push_enabled", sa.Boolean, nullable=False, server_default=sa.false()),
    # Event type -> whether it is wanted; what is not named is.
    sa.Column("preferences", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
    updated_at(),
)

broker_customers = sa.Table(
    "broker_customers",
    metadata,
    sa.Column("broker_id", sa.BigInteger, sa.ForeignKey(customers.c.id), primary_key=True),
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey(customers.c.id), primary_key=True),
    sa.Column("assigned_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.CheckConstraint("broker_id <> customer_id", name="not_himself"),
    sa.Index("idx_broker_customers_customer_id", "customer_id"),
)

refresh_tokens = sa.Table(
    "refresh_tokens",
    metadata,
    # SHA-256 of a random token: what is stored cannot be presented.
    sa.Column("digest", sa.Text, primary_key=True),
    # One sign-in and all that came of it; also the `sid` of its access tokens.
    sa.Column("family_id", UUID, nullable=False),
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey(customers.c.id), nullable=False),
    created_at(),
    sa.Column("expires_at", TIMESTAMP, nullable=False),
    # When the family ends however often it is rotated.
    sa.Column("family_expires_at", TIMESTAMP, nullable=False),
    sa.Column("rotated_at", TIMESTAMP),
    sa.Column("revoked_at", TIMESTAMP),
    sa.Index("idx_refresh_tokens_family_id", "family_id"),
    sa.Index("idx_refresh_tokens_customer_id", "customer_id", postgresql_where=sa.text("revoked_at IS NULL")),
    # At most one unused token per family.
    sa.Index(
        "idx_refresh_tokens_live",
        "family_id",
        unique=True,
        postgresql_where=sa.text("rotated_at IS NULL AND revoked_at IS NULL"),
    ),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    # Also the `sid` of the access tokens that come of it.
    sa.Column("id", UUID, primary_key=True),
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey(customers.c.id), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # SHA-256 of a random secret: what is stored cannot be presented.
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", postgresql.ARRAY(sa.Text), nullable=False),
    created_at(),
    # Null: until it is revoked.
    sa.Column("expires_at", TIMESTAMP),
    sa.Column("revoked_at", TIMESTAMP),
    sa.Index("idx_api_keys_customer_id", "customer_id"),
)

second_factors = sa.Table(
    "second_factors",
    metadata,
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey(customers.c.id), primary_key=True),
    # Of TOTP, sealed under the field key of this number.
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("key_version", sa.SmallInteger, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.false()),
    # The 30 seconds whose code was taken last: none is taken twice, and none older.
    sa.Column("last_step", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed_at", TIMESTAMP),
    created_at(),
)

sign_in_failures = sa.Table(
    "sign_in_failures",
    metadata,
    # Of the name that was typed, whether or not it is an account's: the answers must not tell.
    sa.Column("account_digest", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_failed_at", TIMESTAMP, nullable=False, server_default=NOW),
    sa.Index("idx_sign_in_failures_last_failed_at", "last_failed_at"),
)
