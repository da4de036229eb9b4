"""How an answer goes out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.http.protocol import _OneWrite


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.written.append(b"(closed)")

    def is_closing(self) -> bool:
        return b"(closed)" in self.written


Work = Callable[[_OneWrite], Awaitable[None]]


async def head_and_body(answer: _OneWrite) -> None:
    answer.write(b"head ")
    answer.write(b"body")


async def in_parts(answer: _OneWrite) -> None:
    await head_and_body(answer)
    answer.write(b"more")
    await asyncio.sleep(0)
    answer.write(b"last")


async def a_body_that_comes_later(answer: _OneWrite) -> None:
    answer.write(b"head ")
    await asyncio.sleep(0.01)
    answer.write(b"body")


async def no_body(answer: _OneWrite) -> None:
    answer.write(b"head ")


async def a_head_and_the_end(answer: _OneWrite) -> None:
    answer.write(b"head ")
    answer.close()


async def the_end(answer: _OneWrite) -> None:
    answer.close()


@pytest.mark.parametrize(
    ("work", "written"),
    [
        (head_and_body, [b"head body"]),
        (in_parts, [b"head body", b"more", b"last"]),
        (a_body_that_comes_later, [b"head ", b"body"]),
        (no_body, [b"head "]),
        (a_head_and_the_end, [b"head ", b"(closed)"]),
        (the_end, [b"(closed)"]),
    ],
)
def test_head_and_body_are_one_write_and_nobody_waits_for_a_body(work: Work, written: list[bytes]) -> None:
    transport: Any = Transport()

    async def main() -> None:
        await work(_OneWrite(transport, asyncio.get_running_loop()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert transport.written == written
