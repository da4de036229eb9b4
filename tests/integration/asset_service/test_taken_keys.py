"""Somebody who does not hold the partition was first: the key is taken though it was looked for and not found. Nothing is written
twice, nothing is an error of the server, and the repeated transaction goes by what is there now."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from asset_service import repository
from asset_service.book import Book, Settlement
from shared.db import Conflict
from shared.db.engine import DatabaseUnavailable
from shared.ids import new_id
from tests.integration.asset_service.conftest import Api
from tests.unit.asset_service.worlds import reserve, settle


@contextmanager
def blind_once(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[str]]:
    """The first look of `name` finds nothing."""
    looks: list[str] = []
    looked = getattr(repository, name)

    def look(connection: object, book: Book, ids: object) -> None:
        looks.append(name)
        if len(looks) > 1:
            looked(connection, book, ids)

    with monkeypatch.context() as patch:
        patch.setattr(repository, name, look)
        yield looks


def test_a_reservation_that_is_there_is_answered_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, order = api.customer(TRY="100"), new_id()
    command = reserve(order, customer, "BUY", "1", "60")
    api.handle(command)
    with blind_once(monkeypatch, "load_reservations") as looks:
        api.handle(command)
    assert len(looks) == 2
    assert [answer["payload"]["amount"] for answer in api.answers(order)] == ["60", "60"]
    assert api.balance(customer, "TRY") == (Decimal(100), Decimal(40))


def test_a_settlement_that_is_there_is_answered_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    trade = new_id()
    command = settle(trade, None, None)
    api.handle(command)
    with blind_once(monkeypatch, "load_settlements") as looks:
        api.handle(command)
    assert len(looks) == 2
    assert len(api.answers(trade)) == 2


def test_it_is_repeated_a_bounded_number_of_times(api: Api) -> None:
    refused = {new_id(): Settlement(refusal="NO_ORDER")}
    api.handlers.run(lambda uow: repository.insert_postings(uow.connection, [], refused))
    with pytest.raises(DatabaseUnavailable) as unavailable:
        api.handlers.run(lambda uow: repository.insert_postings(uow.connection, [], refused), attempts=2)
    assert isinstance(unavailable.value.__cause__, Conflict)
