"""The proof of a second factor that a withdrawal took, so that none is taken twice."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("transfers", sa.Column("proof_id", sa.UUID(as_uuid=False), nullable=True))
    op.create_index(
        "idx_transfers_proof_id",
        "transfers",
        ["proof_id"],
        unique=True,
        postgresql_where=sa.text("proof_id IS NOT NULL"),
    )
