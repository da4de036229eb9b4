"""Orders that end by themselves: DAY and GTD."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_orders_time_in_force"), "orders", type_="check")
    op.create_check_constraint(op.f("ck_orders_time_in_force"), "orders", "time_in_force IN ('GTC', 'DAY', 'GTD')")
    op.create_check_constraint(op.f("ck_orders_expires_at"), "orders", "(time_in_force = 'GTC') = (expires_at IS NULL)")
