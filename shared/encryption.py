"""Fields that are stored encrypted: AES-256-GCM under numbered keys.

What is sealed is bound to its place (table, row and field) and to the number of its key: moved to another place, it no
longer opens. The highest number seals; all open. Keys come from `BROKAGE_FIELD_KEYS` (`1:<base64>,2:<base64>`) or, without
it, from the files `field-<number>.key` of the key directory, each 32 random bytes in base64.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.files import write_once
from shared.settings import ServiceSettings

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FILE = "field-{}.key"


class FieldKeysUnusable(Exception):
    """There are no keys for encrypted fields, or one of them is not 32 bytes in base64. Says where, never what."""


class CannotOpen(Exception):
    """What was sealed is damaged, stands in another place than it was sealed for, or its key is gone."""


class Place(NamedTuple):
    """Where a sealed value stands."""

    table: str
    row_id: int | str
    field: str


@dataclass(frozen=True, slots=True)
class FieldKeys:
    """The keys by number; without a word about them when printed."""

    _keys: Mapping[int, bytes] = field(repr=False)

    @property
    def current(self) -> int:
        """The number of the key that seals now; stored in the row beside what it sealed."""
        return max(self._keys)

    def seal(self, text: str, place: Place) -> str:
        """Under the current key, in base64: a random nonce of 12 bytes, the ciphertext, a tag of 16 bytes."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._keys[self.current]).encrypt(nonce, text.encode(), _associated(place, self.current))
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, key_version: int, place: Place) -> str:
        """
        Raises:
            CannotOpen: see there.
        """
        key = self._keys.get(key_version)
        if key is None:
            raise CannotOpen(f"field key {key_version} is not among the keys")
        try:
            raw = base64.b64decode(sealed, validate=True)
            opened = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _associated(place, key_version))
        except (InvalidTag, ValueError):  # ValueError: no base64, or shorter than a nonce
            raise CannotOpen(f"{place.table} {place.row_id}: {place.field} does not open") from None
        return opened.decode()

    def digest(self, text: str, place: Place) -> str:
        """Tells under the current key that a value of this place changed or is the same, and nobody without the key can
        try all values: there are few phone numbers."""
        key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"brokage field digest").derive(self._keys[self.current])
        message = _associated(place, self.current) + b"\0" + text.encode()
        return f"hmac-sha256:{self.current}:{hmac.new(key, message, hashlib.sha256).hexdigest()}"


def load(settings: ServiceSettings) -> FieldKeys:
    """The keys as they are now; cheap enough for each use, so that a rotation needs no restart.

    Raises:
        FieldKeysUnusable: see there.
    """
    if settings.field_keys is not None:
        return FieldKeys(_from_text(settings.field_keys.get_secret_value()))
    if settings.key_dir is None:
        raise FieldKeysUnusable("encrypted fields need BROKAGE_FIELD_KEYS or BROKAGE_KEY_DIR")
    return load_directory(Path(settings.key_dir))


def load_directory(directory: Path) -> FieldKeys:
    keys: dict[int, bytes] = {}
    for path in directory.glob(_FILE.format("*")):
        number = path.stem.removeprefix("field-")
        keys |= {_number(number, path.name): _key(path.read_text(encoding="ascii", errors="replace"), path.name)}
    if not keys:
        raise FieldKeysUnusable(
            f"no field-<number>.key in the key directory {directory}; `brokage pii rotate` makes the first"
        )
    return FieldKeys(keys)


def rotate(directory: Path) -> int:
    """Add a new key, which seals from now on, and return its number. Two at once: one of them fails, nothing is lost.

    Raises:
        FileExistsError: somebody else added that number meanwhile.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        number = load_directory(directory).current + 1
    except FieldKeysUnusable:
        if any(directory.glob(_FILE.format("*"))):
            raise  # there are keys, and one cannot be read: not the moment to begin anew
        number = 1
    text = base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n"
    write_once(directory / _FILE.format(number), text, 0o600)
    return number


def ensure(directory: Path) -> int:
    """The number of the current key, made when there is none."""
    if any(directory.glob(_FILE.format("*"))):
        return load_directory(directory).current
    return rotate(directory)


def mask(text: str, *, shown: int = 4) -> str:
    """All but the last characters as `*`, and never more than half of it in clear."""
    clear = min(shown, len(text) // 2)
    return "*" * (len(text) - clear) + text[len(text) - clear :]


def _associated(place: Place, key_version: int) -> bytes:
    """Lengths go before the parts, so that no two places have the same bytes."""
    parts = ("brokage", place.table, str(place.row_id), place.field, str(key_version))
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def _from_text(text: str) -> dict[int, bytes]:
    keys: dict[int, bytes] = {}
    for position, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        where = f"BROKAGE_FIELD_KEYS, entry {position}"
        number, _, encoded = entry.partition(":")
        if _number(number, where) in keys:
            raise FieldKeysUnusable(f"{where}: a number that was there before")
        keys[_number(number, where)] = _key(encoded, where)
    if not keys:
        raise FieldKeysUnusable("BROKAGE_FIELD_KEYS is empty")
    return keys


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**15):
        raise FieldKeysUnusable(f"{where}: no key number from 1 to 32767")
    return int(text)


def _key(encoded: str, where: str) -> bytes:
    try:
        key = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise FieldKeysUnusable(f"{where}: not {_KEY_BYTES} bytes in base64")
    return key
