"""Access tokens: JWTs signed with EdDSA (RFC 8037, RFC 9068). Verified with keys the process already has.

Times in tokens are the machine's, not the database's movable clock: they are judged by processes that have no database.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.auth.key_set import KeySet
from shared.auth.keys import SigningKey
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


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a verified token says. `issued_at` and `expires_at` are seconds since 1970, the former with a fraction.

    An external issuer may name the customer by `username` instead of `customer_id`. `key_id` is of the key that signed.
    `api_scopes` bound what a program may do that signed in with the API key `api_key_id`; both are None for persons.
    """

    customer_id: int | None
    issued_at: float
    expires_at: float
    token_id: str
    session_id: str | None
    key_id: str = ""
    username: str | None = None
    api_scopes: frozenset[str] | None = None
    api_key_id: str | None = None

    def is_of_any(self, ended: Set[str]) -> bool:
        """Whether its session, or the API key it was exchanged for, is among `ended`."""
        return self.session_id in ended or self.api_key_id in ended


def issue(
    key: SigningKey,
    *,
    customer_id: int,
    session_id: str,
    lifetime_seconds: int = ACCESS_SECONDS,
    api_scopes: Sequence[str] | None = None,
    api_key_id: str | None = None,
) -> str:
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
    if api_scopes is not None:
        claims["scope"] = " ".join(api_scopes)
    if api_key_id is not None:
        claims["api_key_id"] = api_key_id
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": TOKEN_TYPE})


class TokenVerifier:
    """Verifies access tokens; remembers those it has verified by digest until they run out, in bounded memory."""

    def __init__(self, keys: KeySet[Any]) -> None:
        self._keys = keys
        self._verified: OrderedDict[bytes, AccessToken] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, token: str) -> AccessToken | None:
        """A token verified before and still good, without any cryptography but a digest."""
        known = self._verified.get(hash_of(token))
        if known is None or known.expires_at + LEEWAY_SECONDS <= time.time():
            return None
        return known if self._keys.knows(known.key_id) else None

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
            self._verified[hash_of(token)] = verified
            while len(self._verified) > _CACHE_ENTRIES_MAX:
                self._verified.popitem(last=False)
        return verified

    def _check(self, token: str) -> AccessToken:
        if len(token) > TOKEN_LENGTH_MAX:
            raise InvalidToken(presented=True)
        try:
            return self._decode(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidToken("The access token is not valid.", presented=True) from None

    def _decode(self, token: str) -> AccessToken:
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
        return _token_from(claims, header["kid"])

    def _key_for(self, header: Mapping[str, Any]) -> Ed25519PublicKey:
        # An exact set of header fields refuses jwk, jku, x5u and every `crit` without naming them.
        if set(header) != _HEADER_FIELDS or header["alg"] != "EdDSA" or header["typ"] != TOKEN_TYPE:
            raise InvalidToken("The access token is not valid.", presented=True)
        kid = header["kid"]
        key: Ed25519PublicKey | None = self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise InvalidToken("The access token is not valid.", presented=True)
        return key


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def customer_id_of(text: str) -> int:
    """
    Raises:
        ValueError: not the id of any customer.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError("not a customer id")
    return int(text)


def _token_from(claims: Mapping[str, Any], kid: str) -> AccessToken:
    session, scope, api_key_id = claims.get("sid"), claims.get("scope"), claims.get("api_key_id")
    return AccessToken(
        customer_id=customer_id_of(claims["sub"]),
        issued_at=float(claims["iat"]),
        expires_at=float(claims["exp"]),
        token_id=str(claims["jti"]),
        session_id=session if isinstance(session, str) else None,
        key_id=kid,
        api_scopes=None if scope is None else frozenset(str(scope).split()),
        api_key_id=api_key_id if isinstance(api_key_id, str) else None,
    )
