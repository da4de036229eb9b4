"""Access tokens and the attacks on them."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.auth import keys, tokens
from shared.auth.key_set import KeySet, directory_key_set, jwks_key_set
from shared.auth.keys import NoSigningKey, NoSuchKey, SigningKey
from shared.auth.tokens import TokenVerifier
from shared.errors import InvalidToken


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    keys.ensure(tmp_path)
    return tmp_path


@pytest.fixture
def key(directory: Path) -> SigningKey:
    return keys.load_signing_key(directory)


@pytest.fixture
def verifier(directory: Path) -> TokenVerifier:
    return TokenVerifier(directory_key_set(directory))


def age(path: Path, seconds: float = 60) -> None:
    """As if the file had been written earlier."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    full = {
        "iss": "brokage",
        "aud": "brokage-api",
        "sub": "7",
        "jti": "j",
        "sid": "s",
        "iat": now,
        "exp": int(now) + 60,
    }
    return {name: value for name, value in {**full, **changes}.items() if value is not None}


def forge(key: SigningKey, payload: dict[str, Any], **header: Any) -> str:
    full = {"kid": key.kid, "typ": "at+jwt", **header}
    return jwt.encode(payload, key.private, algorithm="EdDSA", headers=full)


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_an_issued_token_is_good_and_remembered(key: SigningKey, verifier: TokenVerifier) -> None:
    token = tokens.issue(key, customer_id=7, session_id="s")
    verified = verifier.verify(token)
    assert (verified.customer_id, verified.session_id) == (7, "s")
    assert verifier.recall(token) is verified


def test_an_expired_token_is_not_recalled(key: SigningKey, verifier: TokenVerifier) -> None:
    token = forge(key, claims(exp=int(time.time()) - tokens.LEEWAY_SECONDS + 1))
    verifier.verify(token)
    time.sleep(1.1)
    assert verifier.recall(token) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"iat": None},
        {"aud": None},
        {"iss": None},
        {"sub": None},
        {"jti": None},
        {"exp": 1},
        {"exp": "soon"},
        {"nbf": int(time.time()) + 3600},
        {"iat": int(time.time()) + 3600},
        {"aud": "other"},
        {"aud": ["brokage-api", "other"]},
        {"iss": "brok"},
        {"iss": "brokage.evil"},
        {"sub": "admin"},
        {"sub": "-1"},
        {"sub": "٧"},
        {"sub": 7},
    ],
)
def test_claims_that_are_missing_or_wrong(key: SigningKey, verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(forge(key, claims(**changes)))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "id+jwt"},
        {"kid": "unknown"},
        {"kid": "../../etc/passwd"},
        {"kid": "' OR 1=1--"},
        {"kid": "https://evil.example/key"},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"cty": "JWT"},
    ],
)
def test_headers_of_attackers(key: SigningKey, verifier: TokenVerifier, header: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(forge(key, claims(), **header))


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "HS256", "RS256", "ES256", "", None, 1])
def test_other_algorithms_without_a_signature(key: SigningKey, verifier: TokenVerifier, algorithm: Any) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(raw({"alg": algorithm, "kid": key.kid, "typ": "at+jwt"}, claims()))


def test_public_key_as_a_shared_secret(key: SigningKey, verifier: TokenVerifier) -> None:
    import hashlib
    import hmac

    public = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    unsigned = raw({"alg": "HS256", "kid": key.kid, "typ": "at+jwt"}, claims()).rsplit(".", 1)[0]
    signature = hmac.new(public, unsigned.encode(), hashlib.sha256).digest()
    forged = unsigned + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    with pytest.raises(InvalidToken):
        verifier.verify(forged)


def test_another_key_under_our_id(key: SigningKey, verifier: TokenVerifier) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(forge(SigningKey(key.kid, Ed25519PrivateKey.generate()), claims()))


@pytest.mark.parametrize("change", [0, 1, 2])
def test_a_changed_part(key: SigningKey, verifier: TokenVerifier, change: int) -> None:
    parts = tokens.issue(key, customer_id=7, session_id="s").split(".")
    middle = len(parts[change]) // 2
    letter = "A" if parts[change][middle] != "A" else "B"
    parts[change] = parts[change][:middle] + letter + parts[change][middle + 1 :]
    with pytest.raises(InvalidToken):
        verifier.verify(".".join(parts))


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "a.b", "💥", "x" * 5000, "eyJ.eyJ.", "\ud800.a.b"])
def test_what_is_no_token(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(token)


class TestKeys:
    def test_rotated_keys_go_on_verifying(self, directory: Path, key: SigningKey, verifier: TokenVerifier) -> None:
        old = tokens.issue(key, customer_id=7, session_id="s")
        age(directory / f"{key.kid}.pem")
        kid = keys.rotate(directory)
        assert keys.load_signing_key(directory).kid == key.kid  # verifiers hear of the new one first
        age(directory / f"{kid}.pem")
        newer = keys.load_signing_key(directory)
        assert newer.kid != key.kid
        assert verifier.verify(old).customer_id == 7
        assert TokenVerifier(directory_key_set(directory)).verify(tokens.issue(newer, customer_id=8, session_id="s"))

    def test_rotation_keeps_one_private_key_that_signs_and_the_next(self, directory: Path, key: SigningKey) -> None:
        age(directory / f"{key.kid}.pem")
        second = keys.rotate(directory)
        assert keys.list_keys(directory) == [(second, "next"), (key.kid, "signs")]
        age(directory / f"{second}.pem")
        third = keys.rotate(directory)
        assert keys.list_keys(directory) == [(third, "next"), (second, "signs"), (key.kid, "verifies")]
        assert not (directory / f"{key.kid}.pem").exists()

    def test_a_key_whose_tokens_ran_out_long_ago_goes(self, directory: Path, key: SigningKey) -> None:
        second = keys.rotate(directory)
        for path in directory.iterdir():
            age(path, 25 * 3600)
        third = keys.rotate(directory)
        assert [kid for kid, _ in keys.list_keys(directory)] == [third, second]

    def test_tokens_of_a_revoked_key_end_also_those_seen_before(self, directory: Path, key: SigningKey) -> None:
        key_set = KeySet(lambda: keys.load_public_keys(directory), refresh_seconds=0.0)
        verifier = TokenVerifier(key_set)
        token = tokens.issue(key, customer_id=7, session_id="s")
        assert verifier.verify(token)
        signing = keys.revoke(directory, key.kid)
        assert signing != key.kid
        deadline = time.monotonic() + 5
        while verifier.recall(token) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(InvalidToken):
            verifier.verify(token)
        assert verifier.verify(tokens.issue(keys.load_signing_key(directory), customer_id=7, session_id="s"))

    def test_only_a_key_that_is_there_is_revoked(self, directory: Path) -> None:
        with pytest.raises(NoSuchKey):
            keys.revoke(directory, "../../etc/passwd")

    def test_files_are_private(self, directory: Path, key: SigningKey) -> None:
        assert (directory / f"{key.kid}.pem").stat().st_mode & 0o777 == 0o600

    def test_no_key_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(NoSigningKey):
            keys.load_signing_key(tmp_path)


class TestJwksAddress:
    @pytest.fixture
    def issuer(self, directory: Path) -> Iterator[tuple[str, HTTPServer, list[int]]]:
        asked: list[int] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(1)
                body = json.dumps(keys.jwks(directory)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks", server, asked
        server.shutdown()
        server.server_close()

    def test_known_keys_go_on_working_while_the_issuer_is_away(
        self, key: SigningKey, issuer: tuple[str, HTTPServer, list[int]]
    ) -> None:
        url, server, _ = issuer
        verifier = TokenVerifier(jwks_key_set(url))
        assert verifier.verify(tokens.issue(key, customer_id=7, session_id="s"))
        server.shutdown()
        server.server_close()
        assert verifier.verify(tokens.issue(key, customer_id=8, session_id="s")).customer_id == 8

    def test_made_up_key_ids_are_not_fetched_each_time(
        self, key: SigningKey, issuer: tuple[str, HTTPServer, list[int]]
    ) -> None:
        url, _, asked = issuer
        verifier = TokenVerifier(jwks_key_set(url))
        for number in range(20):
            with pytest.raises(InvalidToken):
                verifier.verify(forge(SigningKey(f"made-up-{number}", key.private), claims()))
        assert len(asked) == 1
