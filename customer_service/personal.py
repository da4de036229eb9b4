"""Personal data of customers that is stored encrypted: how a row's fields are sealed, opened, masked and spoken of."""

from collections.abc import Mapping
from typing import Any

from shared.encryption import CannotOpen, FieldKeys, Place, mask
from shared.logging import logger

log = logger(__name__)
FIELDS = ("phone", "national_id", "iban")
KEY_VERSION = "personal_key_version"
"""The column that says which key sealed all of a row's fields."""

Personal = Mapping[str, str | None]
"""The three fields in clear; None is not known."""
NOTHING: Personal = dict.fromkeys(FIELDS)


def sealed(keys: FieldKeys, customer_id: int, personal: Personal) -> dict[str, Any]:
    """The columns of a row that holds `personal`, under the current key."""
    columns: dict[str, Any] = {}
    for name in FIELDS:
        value = personal[name]
        columns[name] = None if value is None else keys.seal(value, _place(customer_id, name))
    known = any(value is not None for value in columns.values())
    return {**columns, KEY_VERSION: keys.current if known else None}


def opened(keys: FieldKeys, row: Mapping[str, Any]) -> dict[str, str | None]:
    """What a row of `customers` holds, in clear.

    Raises:
        CannotOpen: its key is gone, or it was changed by somebody without one.
    """
    return {
        name: None if row[name] is None else keys.open(row[name], row[KEY_VERSION], _place(row["id"], name))
        for name in FIELDS
    }


def masked(keys: FieldKeys, row: Mapping[str, Any]) -> dict[str, str | None]:
    """As others than the customer and an admin who asks for him see it. One damaged row does not take a list away: what
    does not open is all mask."""
    try:
        personal = opened(keys, row)
    except CannotOpen as error:
        log.error("personal data does not open", reason=str(error))
        personal = {name: None if row[name] is None else "" for name in FIELDS}
    return {name: None if (value := personal[name]) is None else mask(value) or "****" for name in FIELDS}


def digests(keys: FieldKeys, customer_id: int, personal: Personal) -> dict[str, str | None]:
    """As events and the audit trail speak of it; null stays null. Only comparable under one key."""
    return {
        name: None if value is None else keys.digest(value, _place(customer_id, name))
        for name, value in personal.items()
    }


def _place(customer_id: int, name: str) -> Place:
    return Place("customers", customer_id, name)
