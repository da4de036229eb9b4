"""Postgres: one database per service, one transaction per request or batch."""

from shared.db.engine import Database
from shared.db.unit_of_work import Conflict, Connection, Context, UnitOfWork, taken_is_conflict

__all__ = ["Conflict", "Connection", "Context", "Database", "UnitOfWork", "taken_is_conflict"]
