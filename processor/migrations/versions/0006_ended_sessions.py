"""Ended sessions are remembered here, and not in Valkey alone."""

from shared.db import migrations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.add_ended_sessions_v4()
