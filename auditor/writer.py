"""The one writer of the trail.

Threads of a process take turns by a lock, processes by a lease in the document `audit_head/chain`, which also holds the
end of the chain. Neither guards the chain: the unique `seq` does. A writer that lost its lease without knowing is
refused by that index, reads the end anew, and goes on. Source: messaging protocol, MONGO.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from auditor import documents
from auditor.chain import START, Head, link
from shared.clock import utc_now
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.ids import new_id
from shared.mongo import Document, MongoDatabase, is_duplicate, milliseconds

_CHAIN = {"_id": "chain"}
_POLL_SECONDS = 0.01
_CLASHES_MAX = 20


class ChainWriter:
    """Appends records to the trail, each event once, in the order given."""

    def __init__(
        self, database: MongoDatabase, *, lease_seconds: float = 2.0, wait_seconds: float = 4.0, piece: int = 1000
    ) -> None:
        """`piece`: how many records are stored by one command."""
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)
        self._wait_seconds = wait_seconds
        self._piece = piece
        self._holder = new_id()
        self._lock = threading.Lock()
        self._helper = ThreadPoolExecutor(1, "chain")

    def append(self, contents: Iterable[Document]) -> None:
        """Chain `contents`, leaving out events that are in the trail already. Usually two commands, and one for each piece.

        Each content is asked for when its piece is made, so that long batches cost no time before the first is stored.

        Raises:
            DatabaseUnavailable: other writers held the chain all the time.
        """
        with self._lock:
            head, clean = self._acquire()
            try:
                fault("auditor.acquired")
                if not clean:
                    head = self._read_end(head)
                head = self._append(iter(contents), head)
                fault("auditor.before_head")
                self._release(head)
            except Exception:
                self._abandon()
                raise
        fault("auditor.released")

    def _append(self, contents: Iterator[Document], head: Head) -> Head:
        for _ in range(_CLASHES_MAX):
            taken: list[Document] = []
            try:
                return self._store(_pieces(contents, self._piece, taken), head)
            except BulkWriteError as error:
                if not is_duplicate(error):
                    raise
            # An event is there already, or another writer was faster. What was stored before the clash is in order.
            waiting = [*taken, *contents]
            known = documents.known_events(self._database, [content["event_id"] for content in waiting])
            contents = iter(_first_of_each(content for content in waiting if content["event_id"] not in known))
            head = self._read_end(head)
        raise DatabaseUnavailable("the audit chain is contended")

    def _store(self, pieces: Iterable[list[Document]], head: Head) -> Head:
        """Store records behind `head`, and the new head. While one piece is being stored the next is made, so that neither
        process waits for the other; nothing follows a piece that is not known to be stored.

        Raises:
            BulkWriteError: what is stored by then is in order, and has no gap.
        """
        storing: Future[None] | None = None
        try:
            for contents in pieces:
                records, head = link(head, contents)
                piece = documents.encoded(records)
                _await(storing)
                storing = self._helper.submit(documents.append_records, self._database, piece)
            _await(storing)
        finally:
            if storing is not None:
                wait([storing])  # whatever was raised: who has the chain next finds nothing under way
        return head

    def _read_end(self, noted: Head) -> Head:
        """Where to go on: after the last record, or after the noted head if that is further. The second means that
        records were taken away; going on after them leaves the gap for `verify` to find."""
        last = documents.last_record(self._database) or START
        return last if last.seq > noted.seq else noted

    def _acquire(self) -> tuple[Head, bool]:
        """The noted head, and whether the last writer had noted all it wrote."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            now = milliseconds(utc_now())
            found = self._take(now)
            if found is not None:
                return Head(found["seq"], found["hash"]), found["lease_until"] is None
            if time.monotonic() >= deadline:
                raise DatabaseUnavailable("the audit chain is held by another writer")
            time.sleep(_POLL_SECONDS)

    def _take(self, now: datetime) -> Document | None:
        """The document as it was before this writer took it, or None while somebody else has it."""
        collection = self._database[documents.HEAD]
        free = {"$or": [{"lease_until": None}, {"lease_until": {"$lt": now}}]}
        lease = {"$set": {"holder": self._holder, "lease_until": now + self._lease}}
        found: Document | None = collection.find_one_and_update(
            {**_CHAIN, **free}, lease, return_document=ReturnDocument.BEFORE
        )
        if found is None and collection.find_one(_CHAIN) is None:
            # The very first time, or somebody took the head away; a past lease makes the taker read the records' end.
            first = {"seq": START.seq, "hash": START.hash, "holder": None, "lease_until": now - self._lease}
            collection.update_one(_CHAIN, {"$setOnInsert": first}, upsert=True)
        return found

    def _release(self, head: Head) -> None:
        """Note the new end, which never goes back, and free the lease if it is still this writer's."""
        self._database[documents.HEAD].bulk_write(
            [
                UpdateOne({**_CHAIN, "seq": {"$lt": head.seq}}, {"$set": {"seq": head.seq, "hash": head.hash}}),
                UpdateOne({**_CHAIN, "holder": self._holder}, {"$set": {"lease_until": None}}),
            ]
        )

    def _abandon(self) -> None:
        """Let others in at once, and have them look where the records end: what became of the append is not known."""
        past = {"lease_until": milliseconds(utc_now()) - self._lease}
        with suppress(PyMongoError):  # then the lease runs out by itself
            self._database[documents.HEAD].update_one({**_CHAIN, "holder": self._holder}, {"$set": past})


def _pieces(contents: Iterator[Document], size: int, taken: list[Document]) -> Iterator[list[Document]]:
    """`contents`, `size` at a time; whatever was asked for is in `taken` then."""
    while piece := list(islice(contents, size)):
        taken += piece
        yield piece


def _await(storing: Future[None] | None) -> None:
    if storing is not None:
        storing.result()
        fault("auditor.chained")


def _first_of_each(contents: Iterable[Document]) -> list[Document]:
    """The same event twice in one batch counts once."""
    unique: dict[str, Document] = {}
    for content in contents:
        unique.setdefault(content["event_id"], content)
    return list(unique.values())
