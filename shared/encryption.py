"""Fields that are stored encrypted: AES-256-GCM under numbered keys.

What is sealed is bound to its place (table, row and field) and to the number of its key: moved to another place, it no
longer opens. The highest number seals; all open. Keys come from `BROKAGE_FIELD_KEYS` or, without it, from the files
`field-<number>.key` of the key directory (shared/numbered_keys.py).
"""

import base64
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

from shared.numbered_keys import KeysUnusable, NumberedKeys
from shared.settings import ServiceSettings

_KEY_BYTES = 32
_NONCE_BYTES = 12


class FieldKeysUnusable(KeysUnusable):
    """There are no keys for encrypted fields, or one of them is not 32 bytes in base64. Says where, never what."""


_SOURCE = NumberedKeys(
    purpose="field",
    what="encrypted fields",
    variable="BROKAGE_FIELD_KEYS",
    made_by="`brokage pii rotate` makes the first",
    unusable=FieldKeysUnusable,
)


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
    return FieldKeys(_SOURCE.load(settings.field_keys, settings.key_dir))


def load_directory(directory: Path) -> FieldKeys:
    return FieldKeys(_SOURCE.load_directory(directory))


def rotate(directory: Path) -> int:
    """Add a new key, which seals from now on, and return its number. Two at once: one of them fails, nothing is lost.

    Raises:
        FileExistsError: somebody else added that number meanwhile.
    """
    return _SOURCE.rotate(directory)


def ensure(directory: Path) -> int:
    """The number of the current key, made when there is none."""
    return _SOURCE.ensure(directory)


def mask(text: str, *, shown: int = 4) -> str:
    """All but the last characters as `*`, and never more than half of it in clear."""
    clear = min(shown, len(text) // 2)
    return "*" * (len(text) - clear) + text[len(text) - clear :]


def _associated(place: Place, key_version: int) -> bytes:
    """Lengths go before the parts, so that no two places have the same bytes."""
    parts = ("brokage", place.table, str(place.row_id), place.field, str(key_version))
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
