"""Answers that are made while they are sent."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from anyio import CancelScope
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.errors import ServiceUnavailable

_RETRY_AFTER_SECONDS = 10


class TooManyExports(ServiceUnavailable):
    """As many exports as may be made at once are being made, or wait for callers who do not read them. Repeat the call after
    `Retry-After` seconds."""

    code = "too-many-exports"
    title = "Too many exports at once"


class Places:
    """For so many streamed answers at once in this process: each keeps what it has read ahead in memory for as long as its caller
    takes. Used in the event loop alone."""

    def __init__(self, count: int) -> None:
        self._free = count

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises TooManyExports."""
        if not self._free:
            raise TooManyExports(retry_after_seconds=_RETRY_AFTER_SECONDS)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class StreamedFromThread(StreamingResponse):
    """The chunks of a generator that blocks. It occupies a thread only while it makes a chunk, and not while a caller takes his
    time; and it is closed in one as soon as the answer has ended, also if the caller went away. Left to the garbage
    collector it would close what it reads from in the event loop, and have everybody wait for its store.

    Raises TooManyExports before anything is sent, if there is no place for it.
    """

    def __init__(
        self, chunks: Generator[bytes, None, None], places: Places, *, media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._close = chunks.close
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places.one():
            try:
                await super().__call__(scope, receive, send)
            finally:
                with CancelScope(shield=True):
                    await run_in_threadpool(self._close)
