"""One world for all tests of who may do what."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.integration.world import World, open_world


@pytest.fixture(scope="session")
def world(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(servers, tmp_path_factory.mktemp("authorization")) as world:
        yield world


@pytest.fixture(autouse=True)
def fresh_limits(servers: Any) -> None:
    """Each test starts with full buckets."""
    redis.Redis.from_url(servers.env["BROKAGE_REDIS_URL"]).flushdb()
