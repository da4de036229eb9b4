"""The hash chain: each record's hash covers its content and the hash before it. Pure; no store.

`hash = SHA256(prev_hash || canonical(content))`, where the content is every field but `_id`, `prev_hash` and `hash`
themselves, and so holds `seq` too. Canonical: JSON with sorted keys, no spaces, UTF-8, times as RFC 3339 in UTC with
milliseconds.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

GENESIS = "0" * 64
"""What the first record follows."""
_OUTSIDE = frozenset({"_id", "prev_hash", "hash"})


class Tampering(StrEnum):
    """What is wrong with the trail at a place."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TAIL_CUT = "tail-cut"
    REWRITTEN = "rewritten"
    """The records agree with each other but not with a remembered head: they were made anew. The first one that no
    checkpoint vouches for is named."""
    FORGED = "checkpoint-forged"
    """A checkpoint or an archive's manifest that none of our keys signed."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: how many records there are, and the hash of the last."""

    seq: int
    hash: str


START = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class FirstBad:
    seq: int
    reason: Tampering


@dataclass(frozen=True, slots=True)
class Verification:
    """`records` is how many were examined; after the first bad one the rest proves nothing and is not looked at.
    `checkpoints` is how many of them agreed."""

    valid: bool
    records: int
    head: Head
    first_bad: FirstBad | None
    checkpoints: int = 0


def canonical(content: Mapping[str, Any]) -> bytes:
    """The bytes that are hashed. Two contents have the same bytes only if they say the same.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain).encode()


def _canonical_as_written(content: Mapping[str, Any]) -> bytes:
    """The same bytes in a third of the time, of a content as this service makes it (records.py): no floats, whose JSON differs
    from library to library, and one time, at the top."""
    return _encoder.encode({**content, "timestamp": timestamp_text(content["timestamp"])})


def _canonical_as_read(content: Mapping[str, Any]) -> bytes:
    """The same bytes of whatever is stored. It may hold what the quick way would take for something else (bytes for their
    Base64, NaN for null, a time for its text); only what cannot be mistaken goes that way."""
    above = {**content, "timestamp": None}
    if not _cannot_be_mistaken(above.values()):
        return canonical(content)
    try:
        return _canonical_as_written(content)
    except OverflowError:  # a number that only JSON can hold
        return canonical(content)


_PLAIN = frozenset({str, int, bool, type(None)})


def _cannot_be_mistaken(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            continue
        inner = value.values() if kind is dict else value if kind is list else None
        if inner is None or not _cannot_be_mistaken(inner):
            return False
    return True


def content_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A stored record without what is not hashed. Unknown fields stay in: adding one is a change."""
    return {name: value for name, value in record.items() if name not in _OUTSIDE}


def digest(prev_hash: str, content: Mapping[str, Any]) -> str:
    return _digest(prev_hash, canonical(content))


def _digest(prev_hash: str, content: bytes) -> str:
    return hashlib.sha256(prev_hash.encode() + content).hexdigest()


def link(head: Head, contents: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Head]:
    """The contents, as records.py makes them, as records that follow `head`, in order, and the new head."""
    records = []
    for content in contents:
        numbered = {"seq": head.seq + 1, **content}
        hashed = _digest(head.hash, _canonical_as_written(numbered))
        records.append({"_id": content["event_id"], **numbered, "prev_hash": head.hash, "hash": hashed})
        head = Head(head.seq + 1, hashed)
    return records, head


def verify(
    records: Iterable[Mapping[str, Any]],
    remembered: Head | None,
    checkpoints: Iterable[Head] = (),
    *,
    start: Head = START,
) -> Verification:
    """Examine records in ascending order of `seq`; memory does not grow with their number.

    Args:
        remembered: the head as it was noted before `records` was opened; None if nothing was noted.
        checkpoints: heads as they were signed before, in ascending order of `seq`.
        start: what the first record follows.
    """
    witness = _Witness(checkpoints, start)
    examined = 0
    previous: Mapping[str, Any] | None = None
    head = start
    iterator = iter(records)
    current = next(iterator, None)
    while current is not None:
        following = next(iterator, None)
        bad = _examine(current, head, previous, following)
        examined += 1
        if bad == FirstBad(head.seq, Tampering.CHANGED) and _is_further_on(current, following, iterator):
            bad = FirstBad(head.seq + 1, Tampering.REORDERED)
        if bad is None:
            head = Head(current["seq"], current["hash"])
            bad = witness.contradicts(head)
            if bad is not None and following is not None and following.get("prev_hash") != head.hash:
                # Not everything after it was made anew: it is this one that does not belong here.
                bad = FirstBad(head.seq, _alone(current, following))
        if bad is None and remembered is not None and head.seq == remembered.seq and head.hash != remembered.hash:
            bad = FirstBad(head.seq, Tampering.REWRITTEN)
        if bad is not None:
            return Verification(False, examined, head, bad, witness.agreed)
        previous, current = current, following
    if max(witness.further, remembered.seq if remembered is not None else 0) > head.seq:
        return Verification(False, examined, head, FirstBad(head.seq + 1, Tampering.TAIL_CUT), witness.agreed)
    return Verification(True, examined, head, None, witness.agreed)


class _Witness:
    """Checkpoints, looked at as the chain passes them."""

    def __init__(self, checkpoints: Iterable[Head], start: Head) -> None:
        self._waiting = deque(checkpoint for checkpoint in checkpoints if checkpoint.seq > start.seq)
        self._vouched = start.seq
        self.agreed = 0

    def contradicts(self, head: Head) -> FirstBad | None:
        """What a checkpoint of this length says against this head."""
        while self._waiting and self._waiting[0].seq == head.seq:
            if self._waiting.popleft().hash != head.hash:
                return FirstBad(self._vouched + 1, Tampering.REWRITTEN)
            self.agreed += 1
            self._vouched = head.seq
        return None

    @property
    def further(self) -> int:
        """The length of the longest trail that was ever signed, if it was not reached."""
        return self._waiting[-1].seq if self._waiting else 0


def _examine(
    current: Mapping[str, Any], head: Head, previous: Mapping[str, Any] | None, following: Mapping[str, Any] | None
) -> FirstBad | None:
    """What is wrong with `current`, which should follow `head` (the good record `previous`)."""
    seq = current.get("seq")
    expected = head.seq + 1
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < expected:
        return FirstBad(expected, Tampering.INSERTED)
    if seq > expected:
        return FirstBad(expected, Tampering.MISSING)
    intact = _is_intact(current)
    if current.get("prev_hash") == head.hash:
        return None if intact else _altered(current, head, following)
    return _misplaced(current, head, previous, following, intact=intact)


def _is_intact(record: Mapping[str, Any]) -> bool:
    """Whether the record is what its own hash says. Its `_id` is the event's, so that an event is in the trail once."""
    if record.get("_id") != record.get("event_id") or not isinstance(record.get("timestamp"), datetime):
        return False  # a time that became text has the same canonical bytes
    if not isinstance(record.get("prev_hash"), str):
        return False
    try:
        return _digest(record["prev_hash"], _canonical_as_read(content_of(record))) == record.get("hash")
    except (TypeError, ValueError):
        return False


def _altered(current: Mapping[str, Any], head: Head, following: Mapping[str, Any] | None) -> FirstBad:
    """It claims to follow the record before it, but its content is not what was hashed."""
    if following is not None and following.get("prev_hash") == head.hash:
        return FirstBad(current["seq"], Tampering.INSERTED)  # the next one knows nothing of it
    return FirstBad(current["seq"], Tampering.CHANGED)


def _is_further_on(
    current: Mapping[str, Any], following: Mapping[str, Any] | None, rest: Iterator[Mapping[str, Any]]
) -> bool:
    """Whether the record that `current` follows comes after it: then `current` was moved, and the one before it is good."""
    later = chain([following] if following is not None else [], rest)
    return any(record.get("hash") == current.get("prev_hash") for record in later)


def _alone(current: Mapping[str, Any], following: Mapping[str, Any]) -> Tampering:
    return Tampering.INSERTED if following.get("prev_hash") == current.get("prev_hash") else Tampering.CHANGED


def _misplaced(
    current: Mapping[str, Any],
    head: Head,
    previous: Mapping[str, Any] | None,
    following: Mapping[str, Any] | None,
    *,
    intact: bool,
) -> FirstBad:
    """It follows another record than the one before it. The neighbours tell which of them came or went."""
    here = head.seq + 1
    claimed = current.get("prev_hash")
    if following is not None and claimed == following.get("hash"):
        return FirstBad(here, Tampering.REORDERED)  # the record it follows comes after it
    if following is not None and following.get("prev_hash") == head.hash:
        return FirstBad(here, Tampering.INSERTED)  # the next one follows `previous` and knows nothing of it
    if previous is not None and claimed == previous.get("prev_hash"):
        return FirstBad(head.seq, Tampering.INSERTED)  # it follows the one before `previous`, which came in between
    if previous is not None and intact:
        return FirstBad(head.seq, Tampering.CHANGED)  # this one is as it was: `previous` was made anew
    if following is not None and following.get("prev_hash") == current.get("hash"):
        return FirstBad(here, Tampering.MISSING)  # renumbered to close the gap before it
    return FirstBad(here, Tampering.CHANGED)


@lru_cache(maxsize=1024)
def timestamp_text(moment: datetime) -> str:
    # Cached: the events of one transaction have one time.
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return timestamp_text(value)
    raise TypeError(f"{type(value).__name__} cannot be in an audit record")


def _plain_integer(value: Any) -> int:
    if isinstance(value, int):  # the store's own kind of a long one
        return int(value)
    raise TypeError(f"{type(value).__name__} cannot be in an audit record")


_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=_plain_integer)
