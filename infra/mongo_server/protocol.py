"""The wire: framing, OP_MSG, and the OP_QUERY hello with which drivers introduce themselves."""

import socket
import struct
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import bson
from bson.errors import BSONError

MESSAGE_SIZE_MAX: Final = 48_000_000
DOCUMENT_SIZE_MAX: Final = 16 * 1024 * 1024
WRITE_BATCH_MAX: Final = 100_000

OP_REPLY: Final = 1
OP_QUERY: Final = 2004
OP_MSG: Final = 2013
_MORE_TO_COME = 2
_EXHAUST_ALLOWED = 1 << 16
_HEADER = struct.Struct("<iiii")
_INT32 = struct.Struct("<i")
_request_ids = count(1)


class ProtocolError(Exception):
    """Bytes that are no message: the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One command. `sequences` are the raw documents sent beside the body (bulk writes), by field name."""

    request_id: int
    body: dict[str, Any]
    sequences: dict[str, list[bytes]]
    legacy: bool
    wants_reply: bool


def read_request(connection: socket.socket) -> Request | None:
    """The next request, or None where the client hung up between messages."""
    header = _read_exactly(connection, _HEADER.size, at_start=True)
    if header is None:
        return None
    length, request_id, _, opcode = _HEADER.unpack(header)
    if not _HEADER.size + 4 < length <= MESSAGE_SIZE_MAX:
        raise ProtocolError(f"a message of {length} bytes")
    payload = _read_exactly(connection, length - _HEADER.size)
    assert payload is not None
    try:
        if opcode == OP_MSG:
            return _parse_msg(request_id, payload)
        if opcode == OP_QUERY:
            return _parse_query(request_id, payload)
    except (struct.error, BSONError, ValueError, IndexError) as error:
        raise ProtocolError(str(error)) from error
    raise ProtocolError(f"opcode {opcode}")


def _read_exactly(connection: socket.socket, size: int, *, at_start: bool = False) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    received = 0
    while received < size:
        chunk = connection.recv_into(view[received:])
        if chunk == 0:
            if at_start and received == 0:
                return None
            raise ProtocolError("the client hung up inside a message")
        received += chunk
    return buffer


def _parse_msg(request_id: int, payload: bytearray) -> Request:
    data = bytes(payload)
    (flags,) = struct.unpack_from("<I", data)
    if flags & ~(_MORE_TO_COME | _EXHAUST_ALLOWED):
        raise ProtocolError(f"flags {flags:#x}")
    body: dict[str, Any] | None = None
    sequences: dict[str, list[bytes]] = {}
    position = 4
    while position < len(data):
        kind = data[position]
        size = _checked_size(data, position + 1)
        section = data[position + 1 : position + 1 + size]
        if kind == 0 and body is None:
            body = bson.decode(section)
        elif kind == 1:
            name, documents = _parse_sequence(section)
            sequences[name] = documents
        else:
            raise ProtocolError(f"section kind {kind}")
        position += 1 + size
    if body is None:
        raise ProtocolError("no body section")
    return Request(request_id, body, sequences, legacy=False, wants_reply=not flags & _MORE_TO_COME)


def _checked_size(data: bytes, position: int) -> int:
    (size,) = _INT32.unpack_from(data, position)
    if size < 5 or position + size > len(data):
        raise ProtocolError(f"a section of {size} bytes")
    return int(size)


def _parse_sequence(section: bytes) -> tuple[str, list[bytes]]:
    end = section.index(b"\0", 4)
    documents = []
    position = end + 1
    while position < len(section):
        size = _checked_size(section, position)
        documents.append(section[position : position + size])
        position += size
    return section[4:end].decode(), documents


def _parse_query(request_id: int, payload: bytearray) -> Request:
    data = bytes(payload)
    end = data.index(b"\0", 4)
    namespace = data[4:end].decode()
    if not namespace.endswith(".$cmd"):
        raise ProtocolError("OP_QUERY for anything but a command")
    start = end + 1 + 8
    body = bson.decode(data[start : start + _checked_size(data, start)])
    body = body.get("$query", body)
    body.setdefault("$db", namespace.removesuffix(".$cmd"))
    return Request(request_id, body, {}, legacy=True, wants_reply=True)


def reply_bytes(request: Request, answer: dict[str, Any]) -> bytes:
    """The framed answer to a request, in the dialect the request came in."""
    document = bson.encode(answer)
    if request.legacy:
        payload = struct.pack("<iqii", 8, 0, 0, 1) + document
        opcode = OP_REPLY
    else:
        payload = b"\0\0\0\0\0" + document
        opcode = OP_MSG
    header = _HEADER.pack(_HEADER.size + len(payload), next(_request_ids) & 0x7FFFFFFF, request.request_id, opcode)
    return header + payload
