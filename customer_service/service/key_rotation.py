"""Moves what is stored encrypted under older keys to the current one."""

from collections.abc import Iterator

from customer_service import repository
from customer_service.personal import opened, sealed
from customer_service.repository import Row
from customer_service.service.second_factor import place_of
from shared.db import Database, UnitOfWork
from shared.encryption import FieldKeys


def rows_under_older_keys(database: Database, keys: FieldKeys) -> int:
    with database.read() as connection:
        return repository.count_under_older_keys(connection, keys.current)


def reencrypt(database: Database, keys: FieldKeys, *, batch: int) -> Iterator[int]:
    """Each batch in a transaction of its own, and how many rows it moved. Where it was interrupted the next run goes on:
    each row says which key it is under.

    Nobody is told: for readers nothing changed.

    Raises:
        CannotOpen: a row does not open; it and those after it stay as they are.
    """
    for reencrypt_batch in (_personal_data, _second_factors):
        while moved := database.run(lambda uow, work=reencrypt_batch: work(uow, keys, batch)):  # type: ignore[misc]
            yield moved


def _personal_data(uow: UnitOfWork, keys: FieldKeys, limit: int) -> int:
    rows = repository.lock_personal_under_older_keys(uow.connection, keys.current, limit)
    repository.set_personal(
        uow.connection, [{"id": row["id"], **sealed(keys, row["id"], opened(keys, row))} for row in rows]
    )
    return len(rows)


def _second_factors(uow: UnitOfWork, keys: FieldKeys, limit: int) -> int:
    rows = repository.lock_second_factors_under_older_keys(uow.connection, keys.current, limit)
    repository.reseal_second_factors(uow.connection, [_resealed(keys, row) for row in rows])
    return len(rows)


def _resealed(keys: FieldKeys, row: Row) -> Row:
    place = place_of(row["customer_id"])
    text = keys.open(row["secret"], row["key_version"], place)
    return {"customer_id": row["customer_id"], "secret": keys.seal(text, place), "key_version": keys.current}
