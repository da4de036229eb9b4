"""Moves what is stored encrypted under older keys to the current one."""

from collections.abc import Iterator

from customer_service import repository
from customer_service.personal import opened, sealed
from shared.db import Database, UnitOfWork
from shared.encryption import FieldKeys


def rows_under_older_keys(database: Database, keys: FieldKeys) -> int:
    with database.read() as connection:
        return repository.count_personal_under_older_keys(connection, keys.current)


def reencrypt(database: Database, keys: FieldKeys, *, batch: int) -> Iterator[int]:
    """Each batch in a transaction of its own, and how many rows it moved. Where it was interrupted the next run goes on:
    each row says which key it is under.

    Nobody is told: for readers nothing changed.

    Raises:
        CannotOpen: a row does not open; it and those after it stay as they are.
    """
    while True:
        moved = database.run(lambda uow: _reencrypt_batch(uow, keys, batch))
        if moved == 0:
            return
        yield moved


def _reencrypt_batch(uow: UnitOfWork, keys: FieldKeys, limit: int) -> int:
    rows = repository.lock_personal_under_older_keys(uow.connection, keys.current, limit)
    repository.set_personal(
        uow.connection, [{"id": row["id"], **sealed(keys, row["id"], opened(keys, row))} for row in rows]
    )
    return len(rows)
