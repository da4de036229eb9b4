"""Contracts between services: every reader exists, every route has its row, schemas are reviewed as a diff."""

import json
from pathlib import Path

import msgspec
import pytest

from shared.contracts import Command, contracts

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "contracts"
SERVICES = {"asset_service", "auditor", "customer_service", "notifier", "order_service", "processor"}


@pytest.mark.parametrize("name", sorted(contracts()))
def test_readers_are_services_and_a_command_has_one(name: str) -> None:
    known = contracts()[name]
    assert set(known.readers) <= SERVICES
    assert known.readers
    if issubclass(known.payload, Command):
        assert len(known.readers) == 1


def test_every_event_of_an_order_is_audited() -> None:
    unaudited = {n for n, c in contracts().items() if not issubclass(c.payload, Command) and "auditor" not in c.readers}
    assert unaudited == set()


@pytest.mark.parametrize("name", sorted(contracts()))
def test_the_exported_schema_is_the_code(name: str) -> None:
    """`make docs` writes them; a change of what crosses services is seen in review as a change of these files."""
    exported = json.loads((SCHEMAS / f"{name}.json").read_text())
    assert exported["schema"] == json.loads(msgspec.json.encode(msgspec.json.schema(contracts()[name].payload)))
    assert exported["readers"] == list(contracts()[name].readers)
