"""A second step for what is worth one: customer_service takes a TOTP code (RFC 6238) and gives a proof for it, a JWT of
two minutes; another service takes the proof once. No call from one service to the other."""

import time
from dataclasses import dataclass
from typing import Annotated, Any

import jwt
from fastapi import Header

from shared.auth.key_set import KeySet
from shared.auth.keys import SigningKey
from shared.auth.tokens import ISSUER, LEEWAY_SECONDS, TOKEN_LENGTH_MAX, customer_id_of
from shared.errors import NotPermitted
from shared.ids import is_id, new_id

AUDIENCE = "brokage-second-factor"
TOKEN_TYPE = "second-factor+jwt"
PROOF_SECONDS = 120
ProofHeader = Annotated[
    str | None, Header(alias="X-Second-Factor", max_length=TOKEN_LENGTH_MAX, description="A proof of a TOTP code.")
]


class SecondFactorRequired(NotPermitted):
    """This needs a second step. Set it up once (`POST /api/auth/totp`); then exchange a code of your authenticator for a
    proof (`POST /api/auth/totp/proof`) and repeat the request with the header `X-Second-Factor`. Nothing was done."""

    code = "second-factor-required"
    title = "Second factor required"


class SecondFactorRefused(NotPermitted):
    """The proof in `X-Second-Factor` is not yours, too old, or was used before. Get another one. Nothing was done."""

    code = "second-factor-refused"
    title = "Second factor refused"


@dataclass(frozen=True, slots=True)
class Proof:
    """`proof_id` is new for each proof: who takes one remembers it and takes it once."""

    proof_id: str


def issue_proof(key: SigningKey, customer_id: int) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(customer_id), "jti": new_id()}
    claims |= {"iat": now, "exp": now + PROOF_SECONDS}
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": TOKEN_TYPE})


def verify_proof(text: str, customer_id: int, keys: KeySet[Any]) -> Proof:
    """
    Raises:
        SecondFactorRefused: not a proof of ours, of this customer, and of the last two minutes.
    """
    try:
        header = jwt.get_unverified_header(text)
        if header.keys() != {"alg", "typ", "kid"} or header["typ"] != TOKEN_TYPE:
            raise SecondFactorRefused()
        key = keys.find(str(header["kid"]))
        if key is None:
            raise SecondFactorRefused()
        claims = jwt.decode(
            text,
            key,
            algorithms=["EdDSA"],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "aud", "iss", "sub", "jti"], "strict_aud": True},
        )
        good = customer_id_of(claims["sub"]) == customer_id and is_id(str(claims["jti"]))
    except (jwt.PyJWTError, ValueError, TypeError):
        raise SecondFactorRefused() from None
    if not good:
        raise SecondFactorRefused()
    return Proof(claims["jti"])
