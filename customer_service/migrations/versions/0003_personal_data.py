"""Phone, national id and IBAN, stored encrypted; the phone numbers there are become so."""

import sqlalchemy as sa
from alembic import op

from shared import encryption
from shared.encryption import Place
from shared.settings import ServiceSettings

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("national_id", "iban"):
        op.add_column("customers", sa.Column(column, sa.Text(), nullable=True))
    op.add_column("customers", sa.Column("personal_key_version", sa.SmallInteger(), nullable=True))
    _seal_phones()
    op.create_check_constraint(
        op.f("ck_customers_personal_key_version"),
        "customers",
        "num_nonnulls(phone, national_id, iban) = 0 OR personal_key_version IS NOT NULL",
    )
    op.create_index(
        "idx_customers_personal_key_version",
        "customers",
        ["personal_key_version"],
        postgresql_where=sa.text("personal_key_version IS NOT NULL"),
    )


def _seal_phones() -> None:
    """Asks for keys only when there is something to seal."""
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id, phone FROM customers WHERE phone IS NOT NULL")).all()
    if not rows:
        return
    keys = encryption.load(ServiceSettings())
    connection.execute(
        sa.text("UPDATE customers SET phone = :phone, personal_key_version = :version WHERE id = :id"),
        [
            {"id": id, "phone": keys.seal(phone, Place("customers", id, "phone")), "version": keys.current}
            for id, phone in rows
        ],
    )
