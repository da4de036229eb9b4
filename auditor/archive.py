"""The trail's old records: files of a directory, each with a signed manifest, from which the chain is verified on.

`audit-<first>-<last>.bson.gz` holds the records as they were stored (BSON documents one after another, as mongodump and
mongorestore know them); `audit-<first>-<last>.json` says where the chain stood before and after, and is signed. The
manifest is written last: without it the file is nothing, and the next run makes it anew.
"""

import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import bson
from bson.codec_options import CodecOptions
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from auditor.chain import START, Head, canonical, timestamp_text
from auditor.checkpoints import Checkpoints, is_signed, signed
from shared.auth.keys import SigningKey
from shared.files import replace, write_once
from shared.logging import logger
from shared.mongo import Document

log = logger(__name__)
PURPOSE = b"brokage audit archive\n"
_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
_NAME = "audit-{:012d}-{:012d}"


@dataclass(frozen=True, slots=True)
class Segment:
    """Records `first` to `last` in a file, as its manifest says."""

    path: Path
    first: int
    head: Head


class Archive:
    """One directory. Several may write: whose manifest is there first has archived."""

    def __init__(self, directory: Path, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._directory = directory
        self._keys = keys

    def write(self, records: Sequence[Document], moment: datetime, key: SigningKey) -> Head:
        """Store records that follow each other and the last ones archived; on disk when this returns.

        Raises:
            FileExistsError: somebody else did.
        """
        first, last = records[0], records[-1]
        name = _NAME.format(first["seq"], last["seq"])
        packed = _packed(records)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._directory / f"{name}.bson.gz", packed, 0o600)
        manifest = {
            "version": 1,
            "first_seq": first["seq"],
            "last_seq": last["seq"],
            "records": len(records),
            "prev_hash": first["prev_hash"],
            "hash": last["hash"],
            "file": f"{name}.bson.gz",
            "sha256": hashlib.sha256(packed).hexdigest(),
            "at": timestamp_text(moment),
        }
        write_once(self._directory / f"{name}.json", canonical(signed(PURPOSE, manifest, key)) + b"\n", 0o600)
        return Head(last["seq"], last["hash"])

    def segments(self) -> tuple[Sequence[Segment], Checkpoints]:
        """The segments in order, and what their manifests vouch for: each is a checkpoint as well."""
        found, forged = [], []
        for path in sorted(self._directory.glob("audit-*.json")):
            manifest = _manifest(path)
            if is_signed(PURPOSE, manifest, self._keys):
                head = Head(manifest["last_seq"], manifest["hash"])
                found.append(Segment(path.with_suffix(".bson.gz"), manifest["first_seq"], head))
            else:
                forged.append(int(path.stem.split("-")[1]) if path.stem.split("-")[1].isdigit() else 0)
        found.sort(key=lambda segment: segment.first)
        return found, Checkpoints([segment.head for segment in found], min(forged, default=None))

    def head(self) -> Head:
        """Where what is archived ends."""
        segments, _ = self.segments()
        return max((segment.head for segment in segments), key=lambda head: head.seq, default=START)

    def records(self, segments: Sequence[Segment]) -> Iterator[Document]:
        """What can be read of them, in order; the chain tells what cannot."""
        for segment in segments:
            try:
                with gzip.open(segment.path) as file:
                    yield from bson.decode_file_iter(cast(IO[bytes], file), _OPTIONS)
            except (OSError, EOFError, ValueError, bson.errors.BSONError) as error:
                log.error("archived records cannot be read", file=segment.path.name, error=type(error).__name__)


def joined(archived: Iterator[Document], live: Iterator[Document]) -> Iterator[Document]:
    """One trail in ascending order of `seq`. What is in both places is looked at as people see it: live."""
    current = next(live, None)
    for record in archived:
        while current is not None and _before(current, record):
            yield current
            current = next(live, None)
        if current is not None and current.get("seq") == record.get("seq"):
            yield current
            current = next(live, None)
        else:
            yield record
    if current is not None:
        yield current
        yield from live


def _before(record: Document, other: Document) -> bool:
    seq, limit = record.get("seq"), other.get("seq")
    return isinstance(seq, int) and isinstance(limit, int) and seq < limit


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _packed(records: Sequence[Document]) -> bytes:
    """The same records give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for record in records:
            file.write(bson.encode(record))
    return buffer.getvalue()
