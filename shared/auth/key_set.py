"""Public keys by id, from a directory or a configured address. Known keys go on working while the source is away."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt import PyJWTError
from jwt.algorithms import OKPAlgorithm

from shared.auth.keys import load_public_keys
from shared.breaker import CircuitBreaker, CircuitOpen
from shared.errors import ServiceUnavailable

REFRESH_SECONDS = 10.0
"""How old what is known may get before the source is asked again: within it a withdrawn key stops working."""
_LOOK_SECONDS = 2.0
_TIMEOUT_SECONDS = 2.0
_BYTES_MAX = 256 * 1024
_CIRCUIT_FAILURES_MAX = 3
_CIRCUIT_OPEN_SECONDS = 10.0

K = TypeVar("K")


class NoKeys(Exception):
    """Nothing says where the keys are that verify access tokens; every call would be refused."""

    def __init__(self) -> None:
        super().__init__("set BROKAGE_KEY_DIR, BROKAGE_JWKS_URL or BROKAGE_OIDC_ISSUER")


class KeySet(Generic[K]):
    """What `fetch` found last. A source that fails, or has nothing, changes nothing."""

    def __init__(self, fetch: Callable[[], Mapping[str, K]], *, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._fetch = fetch
        self._refresh_seconds = refresh_seconds
        self._keys: Mapping[str, K] = {}
        self._next_look = 0.0
        self._stale_at = float("inf")
        self._away = False
        self._lock = threading.Lock()

    def knows(self, kid: str) -> bool:
        """Whether the key still counts. Never blocks: what has grown old is asked for again beside the request."""
        if time.monotonic() >= self._stale_at:
            self._stale_at = time.monotonic() + self._refresh_seconds
            threading.Thread(target=self._look, name="keys", daemon=True).start()
        return kid in self._keys

    def find(self, kid: str) -> K | None:
        """The key, after at most one look at the source in 2 s: made-up ids must not become work for it.

        Raises:
            ServiceUnavailable: it is not known, and the source, which may have it, is away.
        """
        if self.knows(kid):
            return self._keys.get(kid)
        # Who comes while another one is looking waits for what he finds: a good token must not be refused in between.
        with self._lock:
            if kid not in self._keys and time.monotonic() >= self._next_look:
                self._refresh()
            if kid not in self._keys and self._away:
                raise ServiceUnavailable("The keys of the issuer of tokens cannot be had at the moment.")
            return self._keys.get(kid)

    def _look(self) -> None:
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        self._next_look = now + _LOOK_SECONDS
        self._stale_at = now + self._refresh_seconds
        try:
            found = self._fetch()
        except (OSError, CircuitOpen):
            self._away = True
            return
        except (ValueError, KeyError, TypeError, AttributeError, PyJWTError):
            found = {}  # it answers, but with nothing that can be used
        self._away = False
        if found:
            self._keys = dict(found)


def directory_key_set(directory: Path) -> KeySet[Ed25519PublicKey]:
    return KeySet(lambda: load_public_keys(directory))


def jwks_key_set(url: str) -> KeySet[Ed25519PublicKey]:
    """Keys of another process's JWKS. Only the configured address is ever fetched, never one from a token."""

    def fetch() -> dict[str, Ed25519PublicKey]:
        found = {}
        for entry in fetch_json(url)["keys"]:
            if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519" and isinstance(entry.get("kid"), str):
                key = OKPAlgorithm.from_jwk(entry)
                if isinstance(key, Ed25519PublicKey):
                    found[entry["kid"]] = key
        return found

    return KeySet(guarded("jwks", url, fetch))


def configured_key_set(jwks_url: str | None, key_dir: str | None) -> KeySet[Ed25519PublicKey]:
    """Our own keys, from wherever the settings say; none where they say nothing."""
    if jwks_url:
        return jwks_key_set(jwks_url)
    return directory_key_set(Path(key_dir)) if key_dir else KeySet(dict)


def guarded(name: str, address: str, fetch: Callable[[], Mapping[str, K]]) -> Callable[[], Mapping[str, K]]:
    """`fetch` behind the circuit breaker `name` of that address, one in the process whoever asks there."""

    def through() -> Mapping[str, K]:
        with _circuit(name, address).call():
            return fetch()

    return through


@cache
def _circuit(name: str, address: str) -> CircuitBreaker:
    return CircuitBreaker(
        name, failures=(OSError,), failures_max=_CIRCUIT_FAILURES_MAX, open_seconds=_CIRCUIT_OPEN_SECONDS
    )


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        raise URLError("a redirect is not followed")


def fetch_json(url: str) -> Any:
    """A small JSON document from a configured address; bounded in time and size, and no redirect is followed.

    Raises:
        OSError: not there, too slow, too large, or not an http address.
        ValueError: not JSON.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise URLError("not an http address")
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    data = b""
    with build_opener(_NoRedirects).open(url, timeout=_TIMEOUT_SECONDS) as answer:
        while chunk := answer.read1(16 * 1024):
            data += chunk
            if len(data) > _BYTES_MAX or time.monotonic() > deadline:
                raise URLError("too large or too slow")
    return json.loads(data)
