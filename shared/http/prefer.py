"""`Prefer: wait=N` (RFC 7240): how long a caller would like an answer to be held. Source: contract, Waiting."""

import re
from typing import Annotated

from fastapi import Depends, Request

WAIT_SECONDS_MAX = 10
_WAIT = re.compile(r'\s*wait\s*=\s*(?:"(\d{1,9})"|(\d{1,9}))\s*(?:;.*)?', re.IGNORECASE | re.ASCII)


def parse_wait(header: str | None) -> int:
    """Seconds to wait, 0..10; 0 for no header, `wait=0` and anything malformed. The first `wait` counts."""
    for preference in (header or "").split(","):
        match = _WAIT.fullmatch(preference)
        if match:
            return min(int(match[1] or match[2]), WAIT_SECONDS_MAX)
        if preference.strip().lower().startswith("wait"):
            return 0
    return 0


def preference_applied(seconds: int) -> dict[str, str]:
    """The headers of an answer that waited."""
    return {"Preference-Applied": f"wait={seconds}"} if seconds else {}


async def _wait_seconds(request: Request) -> int:
    return parse_wait(", ".join(request.headers.getlist("prefer")))


WaitSeconds = Annotated[int, Depends(_wait_seconds)]
"""Endpoint parameter: the seconds the caller asked to wait."""
