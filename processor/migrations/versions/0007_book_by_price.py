"""The book by price first: its best prices, and what crosses, are found without reading what rests."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, price, side in (
        ("idx_matching_queue_sells", "price", "SELL"),
        ("idx_matching_queue_buys", sa.text("price DESC"), "BUY"),
    ):
        op.drop_index(name, table_name="matching_queue")
        op.create_index(
            name,
            "matching_queue",
            ["asset_name", price, "priority", "joined_seq"],
            unique=False,
            postgresql_where=sa.text(f"on_book AND order_side = '{side}'"),
        )
