"""The outbox keeps its batches as the text they are sent as."""

from shared.db import migrations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.outbox_payload_as_json_v2()
