"""How tables are declared: one naming convention, the money type, the common columns."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

AMOUNT = sa.Numeric(38, 18)
UUID = postgresql.UUID(as_uuid=False)
NOW = sa.text("brokage_now()")
TIMESTAMP = sa.TIMESTAMP(timezone=True)

_NAMES = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_metadata() -> sa.MetaData:
    """The metadata of one service's database, with the tables every service has."""
    from shared.db.tables import declare_common_tables

    metadata = sa.MetaData(naming_convention=_NAMES)
    declare_common_tables(metadata)
    return metadata


def created_at() -> sa.Column[object]:
    return sa.Column("created_at", TIMESTAMP, nullable=False, server_default=NOW)


def updated_at() -> sa.Column[object]:
    return sa.Column("updated_at", TIMESTAMP, nullable=False, server_default=NOW)


def version() -> sa.Column[object]:
    """Grows by one with each change; a conditional update names the version it read."""
    return sa.Column("version", sa.Integer, nullable=False, server_default="1")


def one_of(column: str, values: type) -> str:
    """SQL of a CHECK that `column` is a member of a StrEnum."""
    names = ", ".join(f"'{member}'" for member in values)  # type: ignore[attr-defined]
    return f"{column} IN ({names})"
