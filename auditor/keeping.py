"""What keeps the trail beyond its store: checkpoints are taken, old records are archived, and both vouch at `verify`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain as chained
from itertools import takewhile
from pathlib import Path

from auditor import chain, documents
from auditor.archive import Archive, joined
from auditor.chain import START, FirstBad, Head, Tampering, Verification
from auditor.checkpoints import CheckpointPlace, Checkpoints, checkpoint_line, open_place, read_checkpoints
from auditor.settings import Settings
from shared.auth import keys
from shared.clock import utc_now
from shared.logging import logger
from shared.mongo import Document, MongoDatabase

log = logger(__name__)


class TrailDisagrees(Exception):
    """The trail is not what was vouched for before; it is neither signed nor archived until a person has looked."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where checkpoints and archive are; either may be None."""

    database: MongoDatabase
    settings: Settings
    place: CheckpointPlace | None
    archive: Archive | None

    @classmethod
    def open(cls, database: MongoDatabase, settings: Settings) -> "Keeping":
        url, directory = settings.audit_checkpoint_url, settings.audit_archive_dir
        place = None if url is None else open_place(url, timeout_seconds=settings.audit_checkpoint_timeout_seconds)
        archive = None
        if directory is not None:
            archive = Archive(Path(directory), keys.load_public_keys(settings.audit_keys))
        return cls(database, settings, place, archive)

    def require_key(self) -> None:
        """
        Raises:
            NoSigningKey: checkpoints or an archive are wanted, and nothing to sign them with.
        """
        if self.place is not None or self.archive is not None:
            keys.load_signing_key(self.settings.audit_keys)

    def checkpoints(self) -> Checkpoints:
        """
        Raises:
            DatabaseUnavailable: the place does not answer.
        """
        if self.place is None:
            return Checkpoints(())
        return read_checkpoints(self.place.read().splitlines(), keys.load_public_keys(self.settings.audit_keys))

    def take_checkpoint(self) -> Head | None:
        """Sign how long the trail is and how it ends, if it grew; None if not.

        Raises:
            TrailDisagrees: the record of the last checkpoint is another one now.
            DatabaseUnavailable: the store or the place does not answer.
        """
        if self.place is None:
            return None
        last = max(self.checkpoints().heads, key=lambda head: head.seq, default=START)
        with self.database.reachable():
            head = documents.last_record(self.database)
            known = documents.hash_at(self.database, last.seq)
        if head is None or head.seq == last.seq:
            return None
        if last != START and known != last.hash and not (known is None and last.seq <= self._archived().seq):
            log.error("the audit trail is not what its last checkpoint says", seq=last.seq)
            raise TrailDisagrees(f"record {last.seq}")
        self.place.append(checkpoint_line(head, utc_now(), keys.load_signing_key(self.settings.audit_keys)))
        return head

    def archive_due(self) -> int:
        """Move the oldest records whose time is over to the archive, a bounded number; how many.

        They leave the store only when file and signed manifest are on disk and, where checkpoints are taken, one covers
        them. A crash in between leaves them in both places, and the next run ends it.

        Raises:
            TrailDisagrees: they do not verify; they stay.
            DatabaseUnavailable: the store or the place of checkpoints does not answer.
        """
        if self.archive is None:
            return 0
        start = self._archived()
        documents.delete_through(self.database, start.seq)
        due = self._due(start)
        if not due:
            return 0
        found = chain.verify(due, None, start=start)
        if not found.valid:
            log.error("records that should be archived do not verify", first_bad=found.first_bad)
            raise TrailDisagrees(str(found.first_bad))
        self.archive.write(due, utc_now(), keys.load_signing_key(self.settings.audit_keys))
        documents.delete_through(self.database, found.head.seq)
        return len(due)

    def _archived(self) -> Head:
        return START if self.archive is None else self.archive.head()

    def _due(self, start: Head) -> list[Document]:
        end = start.seq + self.settings.audit_archive_records_max
        if self.place is not None:
            end = min(end, max((head.seq for head in self.checkpoints().heads), default=0))
        limit = utc_now() - timedelta(seconds=self.settings.audit_kept_seconds)
        records = documents.stream_logs(self.database, {"seq": {"$gt": start.seq, "$lte": end}})
        return list(takewhile(lambda record: record["timestamp"] < limit, records))

    def verify(self, live: Iterator[Document] | None = None) -> Verification:
        """Recompute the whole chain, archive and live, and name the first record that is changed, missing, reordered,
        inserted or made anew. Memory is bounded.

        The head and the checkpoints are read first: records that are appended meanwhile follow them and are examined too.

        Args:
            live: `documents.stream_logs`, not begun, of a caller who looks at the records as they pass.
        """
        with self.database.reachable():
            noted = documents.find_head(self.database)
        outside = self.checkpoints()
        archived, manifests = (iter(()), Checkpoints(())) if self.archive is None else self._from_archive()
        heads = sorted({*outside.heads, *manifests.heads}, key=lambda head: head.seq)
        found = chain.verify(joined(archived, live or documents.stream_logs(self.database)), noted, heads)
        return _with_forgeries(found, [outside.forged, manifests.forged])

    def _from_archive(self) -> tuple[Iterator[Document], Checkpoints]:
        assert self.archive is not None
        segments, manifests = self.archive.segments()
        return chained(self.archive.records(segments)), manifests


def _with_forgeries(found: Verification, forged: Sequence[int | None]) -> Verification:
    """A statement that nobody of us signed is reported, unless the trail itself is bad before it."""
    seqs = [seq for seq in forged if seq is not None]
    if not seqs or (found.first_bad is not None and found.first_bad.seq <= min(seqs)):
        return found
    bad = FirstBad(min(seqs), Tampering.FORGED)
    return Verification(False, found.records, found.head, bad, found.checkpoints)
