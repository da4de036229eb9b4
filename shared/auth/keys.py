"""The signing keys: one directory of PEM files, named by their key id. Who may read the private ones may sign.

`<kid>.pem` is a private Ed25519 key, `<kid>.pub.pem` a public one. The newest private key signs; all public halves
verify, so a rotated key's tokens stay good until they run out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from shared.files import replace
from shared.ids import new_id

_PUBLIC_SUFFIX = ".pub.pem"
_PRIVATE_SUFFIX = ".pem"


class NoSigningKey(Exception):
    """The key directory holds no private key; `brokage up` and `rotate` make one."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private: Ed25519PrivateKey


def rotate(directory: Path) -> str:
    """Add a new signing key, which signs from now on, and return its id. The file appears whole or not at all."""
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
    return kid


def ensure(directory: Path) -> str:
    """The id of the signing key, made when there is none."""
    try:
        return load_signing_key(directory).kid
    except NoSigningKey:
        return rotate(directory)


def load_signing_key(directory: Path) -> SigningKey:
    """The newest private key; key ids are UUIDv7, so the names sort by age.

    Raises:
        NoSigningKey: there is none.
    """
    names = [path for path in directory.glob(f"*{_PRIVATE_SUFFIX}") if not path.name.endswith(_PUBLIC_SUFFIX)]
    if not names:
        raise NoSigningKey(f"no private key in {directory.name}")
    newest = max(names, key=lambda path: path.name)
    key = serialization.load_pem_private_key(newest.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise NoSigningKey("the newest key is not an Ed25519 key")
    return SigningKey(newest.name.removesuffix(_PRIVATE_SUFFIX), key)


def load_public_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    found = {}
    for path in directory.glob(f"*{_PUBLIC_SUFFIX}"):
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
