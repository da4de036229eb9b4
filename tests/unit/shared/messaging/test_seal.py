"""A seal says that one of our processes has said exactly this on exactly this channel."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.messaging import seal
from shared.messaging.seal import MessageKeysUnusable, Seals, acknowledgement_channel, delivery_channel
from shared.settings import ServiceSettings

OLD, NEW, FOREIGN = (bytes([byte]) * 32 for byte in (1, 2, 3))
SEALS = Seals({1: OLD, 2: NEW})
BODY = b'{"source":"order_service","lane":0,"batches":[]}'
CHANNEL = delivery_channel("processor")


@given(body=st.binary(), channel=st.text(max_size=100))
def test_what_was_sealed_is_true(body: bytes, channel: str) -> None:
    assert SEALS.is_true(channel, body, SEALS.seal(channel, body))


def test_every_flipped_bit_of_the_body_is_noticed() -> None:
    given_seal = SEALS.seal(CHANNEL, BODY)
    for position in range(len(BODY) * 8):
        flipped = bytearray(BODY)
        flipped[position // 8] ^= 1 << position % 8
        assert not SEALS.is_true(CHANNEL, bytes(flipped), given_seal)


@pytest.mark.parametrize("channel", [delivery_channel("asset_service"), acknowledgement_channel("processor"), ""])
def test_what_was_said_to_one_is_not_true_for_another(channel: str) -> None:
    assert not SEALS.is_true(channel, BODY, SEALS.seal(CHANNEL, BODY))


def test_channel_and_body_are_not_confused_however_they_are_cut() -> None:
    assert not SEALS.is_true("a", b"bc", SEALS.seal("ab", b"c"))


@pytest.mark.parametrize("given_seal", ["", "0" * 64, "ü", "x" * 10_000, SEALS.seal(CHANNEL, BODY).upper() + " "])
def test_what_is_no_seal_is_not_true(given_seal: str) -> None:
    assert not SEALS.is_true(CHANNEL, BODY, given_seal)


def test_somebody_with_another_key_seals_nothing() -> None:
    assert not SEALS.is_true(CHANNEL, BODY, Seals({1: FOREIGN}).seal(CHANNEL, BODY))


def test_the_newest_key_seals_and_older_ones_are_still_believed() -> None:
    assert SEALS.seal(CHANNEL, BODY) == Seals({2: NEW}).seal(CHANNEL, BODY)
    assert SEALS.is_true(CHANNEL, BODY, Seals({1: OLD}).seal(CHANNEL, BODY))
    assert not Seals({2: NEW}).is_true(CHANNEL, BODY, Seals({1: OLD}).seal(CHANNEL, BODY)), "it was taken away"


def test_a_printed_one_says_nothing() -> None:
    assert repr(SEALS) == "Seals()"


class TestKeys:
    def test_without_any_nothing_starts(self, tmp_path: Path) -> None:
        with pytest.raises(MessageKeysUnusable, match="BROKAGE_MESSAGE_KEYS"):
            seal.load(ServiceSettings(key_dir=None, message_keys=None))
        with pytest.raises(MessageKeysUnusable, match=r"no message-<number>\.key"):
            seal.load(ServiceSettings(key_dir=str(tmp_path), message_keys=None))

    def test_a_directory_gets_its_key_once_for_its_owner_only(self, tmp_path: Path) -> None:
        assert [seal.ensure(tmp_path), seal.ensure(tmp_path)] == [1, 1]
        [path] = tmp_path.iterdir()
        assert (path.name, oct(path.stat().st_mode & 0o777)) == ("message-1.key", "0o600")
        loaded = seal.load(ServiceSettings(key_dir=str(tmp_path), message_keys=None))
        assert seal.load_directory(tmp_path).is_true(CHANNEL, BODY, loaded.seal(CHANNEL, BODY))

    def test_the_environment_goes_before_the_directory(self, tmp_path: Path) -> None:
        seal.ensure(tmp_path)
        text = SecretStr(f"2:{base64.b64encode(NEW).decode()}")
        loaded = seal.load(ServiceSettings(key_dir=str(tmp_path), message_keys=text))
        assert loaded.seal(CHANNEL, BODY) == SEALS.seal(CHANNEL, BODY)

    def test_a_wrong_one_is_refused_without_repeating_it(self) -> None:
        with pytest.raises(MessageKeysUnusable) as raised:
            seal.load(ServiceSettings(message_keys=SecretStr("1:canary")))
        assert "canary" not in str(raised.value)
