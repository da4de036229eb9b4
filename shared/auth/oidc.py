"""An external OpenID Connect issuer (Keycloak, Auth0, ...) in place of ours, by configuration.

Its discovery document and keys are fetched from the configured issuer and from nowhere else; a token never says where.
What it may say is who calls. Role, tier and whether the account is active stay ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.auth.key_set import KeySet, fetch_json, guarded
from shared.auth.tokens import LEEWAY_SECONDS, AccessToken, TokenVerifier, customer_id_of, hash_of
from shared.errors import InvalidToken

REFRESH_SECONDS = 300.0
_REQUIRED = ["exp", "iat", "aud", "iss", "sub"]
_HEADER_FIELDS = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
"""All that is not listed here is refused: `jwk`, `jku`, `x5u` and `crit` among them."""
_ACCESS_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS = frozenset({"nonce", "at_hash", "c_hash"})
_RSA_BITS_MIN = 2048


@dataclass(frozen=True, slots=True)
class IssuerTerms:
    """The issuer's URL as its tokens spell it, the audience that means this API, and which claim names a customer:
    by his `username` or his customer `id`."""

    issuer: str
    audience: str
    customer_claim: str
    customer_by: Literal["username", "id"]


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key is good for one algorithm: none can be talked into another."""

    key: Any
    algorithm: str


def issuer_key_set(issuer: str) -> KeySet[IssuerKey]:
    return KeySet(guarded("oidc", issuer, lambda: fetch_keys(issuer)), refresh_seconds=REFRESH_SECONDS)


def fetch_keys(issuer: str) -> dict[str, IssuerKey]:
    """The issuer's signing keys, by discovery.

    Raises:
        OSError, ValueError, KeyError: it does not answer, or not as an issuer of that name.
    """
    document = fetch_json(issuer.rstrip("/") + "/.well-known/openid-configuration")
    if document["issuer"] != issuer:
        raise ValueError("the discovery document is another issuer's")
    address = document["jwks_uri"]
    if urlsplit(issuer).scheme == "https" and urlsplit(address).scheme != "https":
        raise ValueError("the keys are not offered over https")
    found = {}
    for entry in fetch_json(address)["keys"]:
        key = _key_of(entry)
        if key is not None:
            found[entry["kid"]] = key
    return found


def _key_of(entry: Mapping[str, Any]) -> IssuerKey | None:
    """The key of a JWK; None for one that is not for signing, too weak, or of a kind that is not taken here."""
    if not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
        return None
    kinds = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
    algorithm = kinds.get((str(entry.get("kty")), entry.get("crv")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key: Any = jwt.PyJWK(dict(entry), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None  # one that cannot be read must not take the others along
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS_MIN:
        return None
    if algorithm == "EdDSA" and not isinstance(key, Ed25519PublicKey):
        return None
    return IssuerKey(key, algorithm)


class OidcVerifier(TokenVerifier):
    """Verifies access tokens of the configured issuer; ID and refresh tokens are none."""

    def __init__(self, terms: IssuerTerms, keys: KeySet[IssuerKey]) -> None:
        super().__init__(keys)
        self._terms = terms
        self._issuer_keys = keys

    def _decode(self, token: str) -> AccessToken:
        header = jwt.get_unverified_header(token)
        key = self._key(header)
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=self._terms.audience,
            issuer=self._terms.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED},
        )
        if claims.get("typ", "Bearer") != "Bearer" or not _ID_TOKEN_CLAIMS.isdisjoint(claims):
            _refuse()
        return self._token(claims, header["kid"], token)

    def _key(self, header: Mapping[str, Any]) -> IssuerKey:
        kind = header.get("typ", "JWT")
        if not (header.keys() <= _HEADER_FIELDS and isinstance(kind, str) and kind.lower() in _ACCESS_TYPES):
            _refuse()
        kid = header.get("kid")
        key = self._issuer_keys.find(kid) if isinstance(kid, str) else None
        if key is None or header.get("alg") != key.algorithm:
            _refuse()
        return key

    def _token(self, claims: Mapping[str, Any], kid: str, token: str) -> AccessToken:
        named = claims.get(self._terms.customer_claim)
        by_id = self._terms.customer_by == "id"
        if not by_id and not (isinstance(named, str) and 0 < len(named) <= 64):
            _refuse()
        session = claims.get("sid")
        return AccessToken(
            customer_id=customer_id_of(str(named)) if by_id else None,
            username=None if by_id else str(named).lower(),
            issued_at=float(claims["iat"]),
            expires_at=float(claims["exp"]),
            token_id=str(claims.get("jti") or hash_of(token).hex()),
            session_id=session if isinstance(session, str) else None,
            key_id=kid,
        )


def _refuse() -> NoReturn:
    raise InvalidToken("The access token is not valid.", presented=True)
