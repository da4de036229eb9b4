"""Access tokens: JWTs signed with EdDSA (RFC 8037, RFC 9068). Verified with keys the process already has.

Times in tokens are the machine's, not the database's movable clock: they are judged by processes that have no database.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from shared.auth.keys import SigningKey, load_public_keys
from shared.errors import InvalidToken
from shared.ids import new_id

ISSUER = "brokage"
AUDIENCE = "brokage-api"
TOKEN_TYPE = "at+jwt"
ACCESS_SECONDS = 15 * 60
LEEWAY_SECONDS = 30
TOKEN_LENGTH_MAX = 4096
_ALGORITHMS = ["EdDSA"]
_REQUIRED = ["exp", "iat", "aud", "iss", "sub", "jti"]
_HEADER_FIELDS = {"alg", "typ", "kid"}
_CACHE_ENTRIES_MAX = 10_000
_RELOAD_SECONDS = 2.0
_JWKS_TIMEOUT_SECONDS = 2.0
_JWKS_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a verified token says. `issued_at` and `expires_at` are seconds since 1970, the former with a fraction."""

    customer_id: int
    issued_at: float
    expires_at: float
    token_id: str
    session_id: str | None


def issue(key: SigningKey, *, customer_id: int, session_id: str, lifetime_seconds: int = ACCESS_SECONDS) -> str:
    """A signed access token. It names who, never what he may: role and tier are looked up where it is used."""
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(customer_id),
        "jti": new_id(),
        "sid": session_id,
        # Milliseconds tell a token issued just after a change of password from one issued just before.
        "iat": round(now, 3),
        "exp": int(now) + lifetime_seconds,
    }
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": TOKEN_TYPE})


class KeySet:
    """Public keys by id, from a directory or a JWKS address. Known keys go on working while the source is away."""

    def __init__(self, fetch: Callable[[], Mapping[str, Ed25519PublicKey]]) -> None:
        self._fetch = fetch
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._next_fetch = 0.0
        self._lock = threading.Lock()

    def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key, after at most one look at the source in 2 s: made-up ids must not become work for it."""
        key = self._keys.get(kid)
        if key is not None:
            return key
        # Who comes while another one is looking waits for what he finds: a good token must not be refused in between.
        with self._lock:
            if kid not in self._keys and time.monotonic() >= self._next_fetch:
                self._refresh()
            return self._keys.get(kid)

    def _refresh(self) -> None:
        self._next_fetch = time.monotonic() + _RELOAD_SECONDS
        try:
            self._keys.update(self._fetch())
        except (OSError, ValueError, KeyError):
            # What is known stays; what is not is refused until the source answers again.
            return


def directory_key_set(directory: Path) -> KeySet:
    return KeySet(lambda: load_public_keys(directory))


def jwks_key_set(url: str) -> KeySet:
    """Keys of another issuer's or process's JWKS. Only the configured address is ever fetched, never one from a
    token."""

    def fetch() -> dict[str, Ed25519PublicKey]:
        with urlopen(url, timeout=_JWKS_TIMEOUT_SECONDS) as answer:
            document = json.loads(answer.read(_JWKS_BYTES_MAX))
        found = {}
        for entry in document["keys"]:
            if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519" and isinstance(entry.get("kid"), str):
                key = OKPAlgorithm.from_jwk(entry)
                if isinstance(key, Ed25519PublicKey):
                    found[entry["kid"]] = key
        return found

    return KeySet(fetch)


class TokenVerifier:
    """Verifies access tokens; remembers those it has verified by digest until they run out, in bounded memory."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys
        self._verified: OrderedDict[bytes, AccessToken] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, token: str) -> AccessToken | None:
        """A token verified before and still good, without any cryptography but a digest."""
        known = self._verified.get(hashlib.sha256(token.encode("utf-8", "replace")).digest())
        if known is None or known.expires_at + LEEWAY_SECONDS <= time.time():
            return None
        return known

    def verify(self, token: str) -> AccessToken:
        """The token's content.

        Raises:
            InvalidToken: not ours, expired, not an access token, or not of the one accepted form.
        """
        known = self.recall(token)
        if known is not None:
            return known
        verified = self._check(token)
        with self._lock:
            self._verified[hashlib.sha256(token.encode()).digest()] = verified
            while len(self._verified) > _CACHE_ENTRIES_MAX:
                self._verified.popitem(last=False)
        return verified

    def _check(self, token: str) -> AccessToken:
        if len(token) > TOKEN_LENGTH_MAX:
            raise InvalidToken(presented=True)
        try:
            header = jwt.get_unverified_header(token)
            key = self._key_for(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True},
            )
            return _token_from(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidToken("The access token is not valid.", presented=True) from None

    def _key_for(self, header: Mapping[str, Any]) -> Ed25519PublicKey:
        # An exact set of header fields refuses jwk, jku, x5u and every `crit` without naming them.
        if set(header) != _HEADER_FIELDS or header["alg"] != "EdDSA" or header["typ"] != TOKEN_TYPE:
            raise InvalidToken("The access token is not valid.", presented=True)
        kid = header["kid"]
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise InvalidToken("The access token is not valid.", presented=True)
        return key


def _token_from(claims: Mapping[str, Any]) -> AccessToken:
    subject = claims["sub"]
    if not (isinstance(subject, str) and subject.isascii() and subject.isdigit()):
        raise ValueError("sub")
    session = claims.get("sid")
    return AccessToken(
        customer_id=int(subject),
        issued_at=float(claims["iat"]),
        expires_at=float(claims["exp"]),
        token_id=str(claims["jti"]),
        session_id=session if isinstance(session, str) else None,
    )
