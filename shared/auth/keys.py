"""The signing keys: one directory of PEM files, named by their key id. Who may read the private ones may sign.

`<kid>.pem` is a private Ed25519 key, `<kid>.pub.pem` a public one. All public halves verify, so a rotated key's tokens
stay good until they run out. The newest private key signs once every verifier has had the time to hear of it.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from shared.files import replace
from shared.ids import new_id

_PUBLIC_SUFFIX = ".pub.pem"
_PRIVATE_SUFFIX = ".pem"
SIGNS_AFTER_SECONDS = 15.0
"""A new key is published this long before it signs: longer than any verifier goes on without asking for keys."""
_TOKENS_GONE_SECONDS = 24 * 3600


class NoSigningKey(Exception):
    """The key directory holds no private key; `brokage up` and `rotate` make one."""


class NoSuchKey(Exception):
    """The key directory holds no key of that id."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private: Ed25519PrivateKey


def rotate(directory: Path) -> str:
    """Add a new signing key and return its id; it signs after `SIGNS_AFTER_SECONDS`, the first one at once.

    Private halves that will never sign again go, and public ones whose last token ran out long ago.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kid = new_id()
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    # The public half first: a verifier must never meet a token whose key it cannot find.
    replace(directory / f"{kid}{_PUBLIC_SUFFIX}", public, 0o644)
    replace(directory / f"{kid}{_PRIVATE_SUFFIX}", private, 0o600)
    _clear(directory)
    return kid


def revoke(directory: Path, kid: str) -> str:
    """Take a key away that is known to others: its tokens stop working within seconds. Returns the key that signs now.

    Raises:
        NoSuchKey: it is not in the directory.
    """
    public = directory / f"{kid}{_PUBLIC_SUFFIX}"
    if public not in _public_files(directory):
        raise NoSuchKey(kid)
    if [path.name for path in _private_files(directory)] == [f"{kid}{_PRIVATE_SUFFIX}"]:
        rotate(directory)  # before: nobody must be left unable to sign in
    (directory / f"{kid}{_PRIVATE_SUFFIX}").unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    return load_signing_key(directory).kid


def list_keys(directory: Path) -> list[tuple[str, str]]:
    """Every key id with `signs`, `next` (published, not signing yet) or `verifies`; the newest first."""
    signing = load_signing_key(directory).kid if _private_files(directory) else ""
    kids = [path.name.removesuffix(_PUBLIC_SUFFIX) for path in _public_files(directory)]
    return [
        (kid, "signs" if kid == signing else "next" if kid > signing and _has_private(directory, kid) else "verifies")
        for kid in reversed(kids)
    ]


def ensure(directory: Path) -> str:
    """The id of the signing key, made when there is none."""
    try:
        return load_signing_key(directory).kid
    except NoSigningKey:
        return rotate(directory)


def load_signing_key(directory: Path) -> SigningKey:
    """The newest private key that has been published for long enough; the oldest when none has. Key ids are UUIDv7, so
    the names sort by age.

    Raises:
        NoSigningKey: there is none.
    """
    names = _private_files(directory)
    if not names:
        raise NoSigningKey(f"no private key in {directory.name}")
    published = [path for path in names if path.stat().st_mtime <= time.time() - SIGNS_AFTER_SECONDS]
    chosen = published[-1] if published else names[0]
    key = serialization.load_pem_private_key(chosen.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise NoSigningKey("the newest key is not an Ed25519 key")
    return SigningKey(chosen.name.removesuffix(_PRIVATE_SUFFIX), key)


def load_public_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    found = {}
    for path in _public_files(directory):
        key = serialization.load_pem_public_key(path.read_bytes())
        if isinstance(key, Ed25519PublicKey):
            found[path.name.removesuffix(_PUBLIC_SUFFIX)] = key
    return found


def jwks(directory: Path) -> dict[str, Any]:
    """The public keys as a JSON Web Key Set (RFC 7517)."""
    keys = []
    for kid, key in sorted(load_public_keys(directory).items()):
        entry = OKPAlgorithm.to_jwk(key, as_dict=True)
        keys.append({**entry, "kid": kid, "use": "sig", "alg": "EdDSA"})
    return {"keys": keys}


def _private_files(directory: Path) -> list[Path]:
    """The oldest first."""
    return sorted(path for path in directory.glob(f"*{_PRIVATE_SUFFIX}") if not path.name.endswith(_PUBLIC_SUFFIX))


def _public_files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{_PUBLIC_SUFFIX}"))


def _has_private(directory: Path, kid: str) -> bool:
    return (directory / f"{kid}{_PRIVATE_SUFFIX}").exists()


def _clear(directory: Path) -> None:
    signing = load_signing_key(directory).kid
    for path in _private_files(directory):
        if path.name.removesuffix(_PRIVATE_SUFFIX) < signing:
            path.unlink()
    publics = _public_files(directory)
    for path, successor in pairwise(publics):
        # It signed until its successor did.
        ended = successor.stat().st_mtime + SIGNS_AFTER_SECONDS
        if path.name.removesuffix(_PUBLIC_SUFFIX) < signing and time.time() - ended > _TOKENS_GONE_SECONDS:
            path.unlink()
