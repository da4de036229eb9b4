"""Valkey as the edge uses it: short time-outs, and a memory of it being down, so that an outage does not slow every
request.

Nothing here is the only copy of anything. Every call answers `Unavailable` at once while Valkey is believed to be down.
"""

import time
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

TIMEOUT_SECONDS = 0.2
DOWN_SECONDS = 1.0
"""For how long after a failure Valkey is not tried again."""


class Unavailable(Exception):
    """Valkey cannot be asked at the moment."""


class Script:
    """A Lua script, sent by its digest and in full only when the server does not know it (after a restart or a
    flush)."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = redis.Redis().register_script(source).sha


class AsyncValkey:
    """A client for the event loop."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=AsyncRetry(NoBackoff(), 0),
            max_connections=64,
        )
        self._down_until = 0.0

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        try:
            return await self.command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.command("EVAL", script.source, len(keys), *keys, *arguments)

    async def command(self, *command: str | int | bytes) -> Any:
        if time.monotonic() < self._down_until:
            raise Unavailable
        try:
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            self._down_until = time.monotonic() + DOWN_SECONDS
            raise Unavailable from error

    async def close(self) -> None:
        await self._client.aclose()


class Valkey:
    """A client for threads."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )
        self._down_until = 0.0

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        try:
            return self.command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return self.command("EVAL", script.source, len(keys), *keys, *arguments)

    def command(self, *command: str | int | bytes) -> Any:
        if time.monotonic() < self._down_until:
            raise Unavailable
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            self._down_until = time.monotonic() + DOWN_SECONDS
            raise Unavailable from error

    def close(self) -> None:
        self._client.close()
