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
"""For how long Valkey is not tried again once it is believed to be down."""
_TIMEOUTS_MAX = 3
_CONNECTIONS_MAX = 2_000
"""One per request in flight; more than any process has."""


class Unavailable(Exception):
    """Valkey cannot be asked at the moment."""


class Script:
    """A Lua script, sent by its digest and in full only when the server does not know it (after a restart or a
    flush)."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = redis.Redis().register_script(source).sha


class _Health:
    """Whether Valkey is believed to be down: after a refused connection at once, after a time-out only when others
    follow, for
    one may be our own lateness."""

    def __init__(self) -> None:
        self._timeouts = 0
        self._down_until = 0.0

    def check(self) -> None:
        if time.monotonic() < self._down_until:
            raise Unavailable

    def succeeded(self) -> None:
        self._timeouts = 0

    def failed(self, error: Exception) -> None:
        self._timeouts += 1
        if self._timeouts >= _TIMEOUTS_MAX or not isinstance(error, (TimeoutError, redis.exceptions.TimeoutError)):
            self._timeouts = 0
            self._down_until = time.monotonic() + DOWN_SECONDS


class AsyncValkey:
    """A client for the event loop."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=AsyncRetry(NoBackoff(), 0),
            max_connections=_CONNECTIONS_MAX,
        )
        self._health = _Health()

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        try:
            return await self.command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.command("EVAL", script.source, len(keys), *keys, *arguments)

    async def command(self, *command: str | int | bytes) -> Any:
        self._health.check()
        try:
            answer = await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except (RedisError, OSError, RuntimeError) as error:
            # RuntimeError is what uvloop raises when a connection was cut between two commands.
            self._health.failed(error)
            raise Unavailable from error
        self._health.succeeded()
        return answer

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
            max_connections=_CONNECTIONS_MAX,
        )
        self._health = _Health()

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        try:
            return self.command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return self.command("EVAL", script.source, len(keys), *keys, *arguments)

    def command(self, *command: str | int | bytes) -> Any:
        self._health.check()
        try:
            answer = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            self._health.failed(error)
            raise Unavailable from error
        self._health.succeeded()
        return answer

    def close(self) -> None:
        self._client.close()
