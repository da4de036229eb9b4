"""Keys are looked up once, whoever asks first."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.auth.key_set import KeySet, guarded
from shared.breaker import CircuitOpen
from shared.errors import ServiceUnavailable


class TestKeySet:
    def test_who_asks_while_another_looks_waits_for_what_is_found(self) -> None:
        key = Ed25519PrivateKey.generate().public_key()
        looking = threading.Event()
        looks = 0

        def slow_fetch() -> Mapping[str, Ed25519PublicKey]:
            nonlocal looks
            looks += 1
            looking.set()
            time.sleep(0.1)
            return {"kid": key}

        keys = KeySet(slow_fetch)
        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(keys.find, "kid")
            looking.wait(2)
            others = [pool.submit(keys.find, "kid") for _ in range(7)]
            assert first.result() is key
            assert all(other.result() is key for other in others)
        assert looks == 1

    def test_a_made_up_id_is_not_looked_for_at_every_request(self) -> None:
        looks: list[int] = []

        def fetch() -> Mapping[str, Ed25519PublicKey]:
            looks.append(1)
            return {}

        keys = KeySet(fetch)
        assert [keys.find("nobody") for _ in range(5)] == [None] * 5
        assert len(looks) == 1

    def test_a_withdrawn_key_stops_working_and_an_empty_or_failing_source_takes_nothing_away(self) -> None:
        known: dict[str, int] = {"old": 1, "new": 2}
        away = False
        looked = threading.Semaphore(0)

        def fetch() -> Mapping[str, int]:
            looked.release()
            if away:
                raise OSError
            return dict(known)

        keys = KeySet(fetch, refresh_seconds=0.0)

        def look_again() -> None:
            while looked.acquire(blocking=False):
                pass
            keys.knows("new")
            assert looked.acquire(timeout=5)
            with keys._lock:  # until the look has ended
                pass

        assert keys.find("old") == 1
        away = True
        look_again()
        assert keys.knows("old")
        away, held = False, dict(known)
        known.clear()
        look_again()
        assert keys.knows("old")
        known["new"] = held["new"]
        look_again()
        assert not keys.knows("old")
        assert keys.find("new") == 2

    def test_who_has_a_key_that_an_absent_source_may_know_is_told_to_come_again(self) -> None:
        """401 would sign everybody out because the issuer is away for a moment."""
        source: dict[str, int] = {"new": 2}
        away = True

        def fetch() -> Mapping[str, int]:
            if away:
                raise OSError
            return source

        keys = KeySet(fetch)
        with pytest.raises(ServiceUnavailable):
            keys.find("new")
        away = False
        keys._next_look = 0.0
        assert keys.find("new") == 2
        assert keys.find("made-up") is None

    def test_a_source_that_fails_is_left_alone_for_a_while(self) -> None:
        looks: list[int] = []

        def fetch() -> Mapping[str, int]:
            looks.append(1)
            raise OSError

        through = guarded("jwks", "test://fails", fetch)
        outcomes: list[type[Exception]] = []
        for _ in range(5):
            with pytest.raises((OSError, CircuitOpen)) as failure:
                through()
            outcomes.append(failure.type)
        assert outcomes == [OSError] * 3 + [CircuitOpen] * 2
        assert len(looks) == 3
        assert guarded("jwks", "test://works", lambda: {"kid": 1})() == {"kid": 1}
