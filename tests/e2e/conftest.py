"""One system for all tests; each takes customers of its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.system import System


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    found = System()
    try:
        found.start()
        yield found
    finally:
        found.close()
