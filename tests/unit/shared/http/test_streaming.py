"""An answer that nobody reads to its end lets go of what it is made from, and nobody waits for that."""

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from shared.http.streaming import Places, StreamedFromThread, TooManyExports

SCOPE = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}}


class Records:
    """An endless source, slow to close; it tells in which threads it was read and closed."""

    def __init__(self) -> None:
        self.read_in: set[int] = set()
        self.closed_in: list[int] = []

    def chunks(self) -> Generator[bytes, None, None]:
        try:
            while True:
                self.read_in.add(threading.get_ident())
                yield b"x" * 1000
        finally:
            time.sleep(0.2)
            self.closed_in.append(threading.get_ident())


async def abandoned(records: Records, *, stops_reading: bool) -> float:
    """The longest that the event loop stood still meanwhile."""
    stalled, left = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            left.set()
            if stops_reading:
                await stalled.wait()
            await asyncio.sleep(0)

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    beating = asyncio.create_task(beat())
    answer = StreamedFromThread(records.chunks(), Places(1), media_type="text/plain", headers={})
    await answer(SCOPE, receive, send)
    del answer
    await asyncio.sleep(0.05)
    beating.cancel()
    return longest


@pytest.mark.parametrize("stops_reading", [True, False], ids=["stops reading", "goes away"])
def test_a_caller_who_is_gone_leaves_nothing_open_and_holds_nobody_up(stops_reading: bool) -> None:
    records = Records()
    longest = asyncio.run(abandoned(records, stops_reading=stops_reading))
    assert len(records.closed_in) == 1
    assert threading.get_ident() not in {*records.read_in, *records.closed_in}
    assert longest < 0.15, "the event loop waited for the source to close"


def test_who_finds_no_place_is_refused_before_anything_is_sent_until_another_has_ended() -> None:
    async def story() -> None:
        places, sent = Places(2), []
        go_on = asyncio.Event()

        async def stalled(message: Any) -> None:
            await go_on.wait()

        async def gone() -> Any:
            await go_on.wait()
            return {"type": "http.disconnect"}

        async def note(message: Any) -> None:
            sent.append(message["type"])

        def answer() -> StreamedFromThread:
            return StreamedFromThread(Records().chunks(), places, media_type="text/plain", headers={})

        holders = [asyncio.create_task(answer()(SCOPE, gone, stalled)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooManyExports) as refused:
            await answer()(SCOPE, gone, note)
        assert (refused.value.status, sent) == (503, [])
        go_on.set()
        await asyncio.gather(*holders)
        await answer()(SCOPE, gone, note)
        assert sent[0] == "http.response.start"

    asyncio.run(story())
