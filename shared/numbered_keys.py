"""Secret keys of one purpose, by number: from the environment (`1:<base64>,2:<base64>`) or, without it, from the files
`<purpose>-<number>.key` of the key directory, each 32 random bytes in base64."""

import base64
import binascii
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from shared.files import write_once

_KEY_BYTES = 32


class KeysUnusable(Exception):
    """There are no keys of a purpose, or one of them is not 32 bytes in base64. Says where, never what."""


@dataclass(frozen=True, slots=True)
class NumberedKeys:
    """Where the keys of a purpose are.

    Args:
        what: they are for, in an error's words. `variable`: of the environment. `made_by`: what makes the first file.
        unusable: the error of this purpose.
    """

    purpose: str
    what: str
    variable: str
    made_by: str
    unusable: type[KeysUnusable] = KeysUnusable

    def load(self, text: SecretStr | None, directory: str | None) -> dict[int, bytes]:
        """Those of the environment if it has any, else those of the key directory.

        Raises:
            KeysUnusable: see there.
        """
        if text is not None:
            return self._from_text(text.get_secret_value())
        if directory is None:
            raise self.unusable(f"{self.what} need {self.variable} or BROKAGE_KEY_DIR")
        return self.load_directory(Path(directory))

    def load_directory(self, directory: Path) -> dict[int, bytes]:
        keys: dict[int, bytes] = {}
        for path in directory.glob(self._file("*")):
            number = path.stem.removeprefix(f"{self.purpose}-")
            text = path.read_text(encoding="ascii", errors="replace")
            keys |= {self._number(number, path.name): self._key(text, path.name)}
        if not keys:
            raise self.unusable(f"no {self._file('<number>')} in the key directory {directory}; {self.made_by}")
        return keys

    def rotate(self, directory: Path) -> int:
        """Add a new key under the next number, which it returns. Two at once: one of them fails, nothing is lost.

        Raises:
            FileExistsError: somebody else added that number meanwhile.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Where there are keys and one cannot be read, it is not the moment to begin anew: that raises.
        number = max(self.load_directory(directory)) + 1 if self.is_in(directory) else 1
        text = base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n"
        write_once(directory / self._file(str(number)), text, 0o600)
        return number

    def ensure(self, directory: Path) -> int:
        """The number of the newest key, made when there is none."""
        return max(self.load_directory(directory)) if self.is_in(directory) else self.rotate(directory)

    def is_in(self, directory: Path) -> bool:
        return any(directory.glob(self._file("*")))

    def _file(self, number: str) -> str:
        return f"{self.purpose}-{number}.key"

    def _from_text(self, text: str) -> dict[int, bytes]:
        keys: dict[int, bytes] = {}
        for position, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
            where = f"{self.variable}, entry {position}"
            number, _, encoded = entry.partition(":")
            if self._number(number, where) in keys:
                raise self.unusable(f"{where}: a number that was there before")
            keys[self._number(number, where)] = self._key(encoded, where)
        if not keys:
            raise self.unusable(f"{self.variable} is empty")
        return keys

    def _number(self, text: str, where: str) -> int:
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**15):
            raise self.unusable(f"{where}: no key number from 1 to 32767")
        return int(text)

    def _key(self, encoded: str, where: str) -> bytes:
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise self.unusable(f"{where}: not {_KEY_BYTES} bytes in base64")
        return key
