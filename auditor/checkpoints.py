"""Signed checkpoints: how long the trail was and how it ended, kept where its writer cannot change it.

A bare hash chain shows neither that its tail was cut nor that all of it was computed anew; a checkpoint does. One line of
JSON each, signed with Ed25519 by a key that signs nothing else, appended to a file or sent to a URL:

    file:///var/lib/checkpoints/audit.ndjson    best on storage that only takes appends
    https://witness.example/audit               POST takes one line (2xx: it is kept), GET answers all of them
"""

import base64
import http.client
import json
import os
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from auditor.chain import Head, canonical, timestamp_text
from shared.auth.keys import SigningKey
from shared.breaker import CircuitBreaker, CircuitOpen
from shared.db.engine import DatabaseUnavailable
from shared.logging import logger

log = logger(__name__)
PURPOSE = b"brokage audit checkpoint\n"
_ANSWER_BYTES_MAX = 256 * 1024 * 1024
_FAILURES = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a place of checkpoints says. `forged`: the lowest count in a line that no key of ours signed, or None."""

    heads: Sequence[Head]
    forged: int | None = None


class CheckpointPlace(Protocol):
    def append(self, line: bytes) -> None: ...

    def read(self) -> bytes: ...


def signed(purpose: bytes, fields: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """`fields` with the key's id and a signature over all of it."""
    named = {**fields, "kid": key.kid}
    signature = key.private.sign(purpose + canonical(named))
    return {**named, "signature": base64.b64encode(signature).decode()}


def is_signed(purpose: bytes, document: Mapping[str, Any], keys: Mapping[str, Ed25519PublicKey]) -> bool:
    fields = {name: value for name, value in document.items() if name != "signature"}
    key = keys.get(str(document.get("kid")))
    if key is None:
        return False
    try:
        key.verify(base64.b64decode(str(document.get("signature"))), purpose + canonical(fields))
    except (InvalidSignature, ValueError):
        return False
    return True


def checkpoint_line(head: Head, moment: datetime, key: SigningKey) -> bytes:
    fields = {"version": 1, "seq": head.seq, "hash": head.hash, "at": timestamp_text(moment)}
    return canonical(signed(PURPOSE, fields, key)) + b"\n"


def read_checkpoints(lines: Iterable[bytes], keys: Mapping[str, Ed25519PublicKey]) -> Checkpoints:
    """In the order of their counts. A line that is no JSON (a write that was cut off) vouches for nothing and is passed
    over: who can damage a line can as well take it away. One that speaks without our signature is reported."""
    heads, forged = [], []
    for line in lines:
        document = _document(line)
        if document is None:
            continue
        seq, hash = document.get("seq"), document.get("hash")
        if isinstance(seq, int) and isinstance(hash, str) and is_signed(PURPOSE, document, keys):
            heads.append(Head(seq, hash))
        else:
            forged.append(seq if isinstance(seq, int) else 0)
    return Checkpoints(sorted(heads, key=lambda head: head.seq), min(forged, default=None))


def _document(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        if line.strip():
            log.warning("unreadable checkpoint passed over", length=len(line))
        return None
    return document if isinstance(document, dict) else {}


def open_place(url: str, *, timeout_seconds: float) -> CheckpointPlace:
    """
    Raises:
        ValueError: neither a file nor a web address.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        return _File(Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and parts.hostname:
        return _Url(url, timeout_seconds)
    raise ValueError("BROKAGE_AUDIT_CHECKPOINT_URL must be file:///absolute/path or http(s)://...")


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: bytes) -> None:
        """In one write, on disk when this returns. What an earlier write left half is ended first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> bytes:
        """
        Raises:
            DatabaseUnavailable: the file is there and cannot be read.
        """
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DatabaseUnavailable("audit checkpoints") from error


class _Url:
    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._circuit = CircuitBreaker("audit-checkpoints", failures=_FAILURES)

    def append(self, line: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        self._ask(urllib.request.Request(self._url, data=line, headers=headers, method="POST"))

    def read(self) -> bytes:
        return self._ask(urllib.request.Request(self._url, headers={"Accept": "application/x-ndjson"}))

    def _ask(self, request: urllib.request.Request) -> bytes:
        """
        Raises:
            DatabaseUnavailable: no answer, or none of 2xx.
        """
        try:
            # The scheme is http or https (open_place), and a status outside 2xx raises.
            with self._circuit.call(), urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:
                body: bytes = answer.read(_ANSWER_BYTES_MAX)
                return body
        except (*_FAILURES, CircuitOpen) as error:
            raise DatabaseUnavailable("audit checkpoints") from error
