"""A small OpenID Connect issuer with keys of its own, run as a process of its own: discovery, JWKS, and tokens for the
asking. Prints its port."""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

KINDS: dict[str, tuple[str, Any]] = {
    "rsa": ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
    "weak": ("RS256", lambda: rsa.generate_private_key(65537, 1024)),
    "ec": ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    "unpublished": ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
}
KEYS = {name: make() for name, (_, make) in KINDS.items()}
PUBLISHED = {"rsa", "weak", "ec", "ed"}
REQUESTS: list[str] = []


def _jwks() -> dict[str, Any]:
    keys = []
    for name in sorted(PUBLISHED):
        algorithm = KINDS[name][0]
        entry = get_default_algorithms()[algorithm].to_jwk(KEYS[name].public_key(), as_dict=True)
        keys.append({**entry, "kid": name, "use": "sig", "alg": algorithm})
    return {"keys": [*keys, {"kty": "oct", "kid": "secret", "k": base64.urlsafe_b64encode(b"s" * 32).decode()}]}


class Issuer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        REQUESTS.append(self.path)
        url = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        if self.path == "/.well-known/openid-configuration":
            self._answer({"issuer": url, "jwks_uri": f"{url}/keys"})
        elif self.path == "/keys":
            self._answer(_jwks())
        else:
            self._answer(list(REQUESTS))

    def do_POST(self) -> None:
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/publish":
            PUBLISHED.add(wish["key"])
            self._answer({})
        else:
            self._answer({"access_token": self._token(wish)})

    def _token(self, wish: dict[str, Any]) -> str:
        now = int(time.time())
        url = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        claims = {"iss": url, "aud": ["brokage", "account"], "sub": "f3a1", "iat": now, "exp": now + 300}
        claims |= {"typ": "Bearer", "azp": "web", "sid": "s-1", **wish.get("claims", {})}
        key = wish.get("key", "rsa")
        header = {"kid": key, "typ": "JWT", **wish.get("header", {})}
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, KEYS[key], algorithm=KINDS[key][0], headers=header)

    def _answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Issuer)
    print(server.server_port, flush=True)
    server.serve_forever()
