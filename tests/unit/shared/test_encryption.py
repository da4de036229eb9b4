"""Encrypted fields: what is sealed opens only in its place, under its key, unchanged."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared import encryption
from shared.encryption import CannotOpen, FieldKeys, FieldKeysUnusable, Place, mask
from shared.settings import ServiceSettings

PLACE = Place("customers", 7, "iban")
KEYS = FieldKeys({1: bytes(range(32)), 2: bytes(range(1, 33))})


def text_of_key(byte: int = 1) -> str:
    return base64.b64encode(bytes([byte]) * 32).decode()


class TestSealAndOpen:
    @given(text=st.text())
    def test_what_was_sealed_opens_to_the_same(self, text: str) -> None:
        assert KEYS.open(KEYS.seal(text, PLACE), KEYS.current, PLACE) == text

    def test_the_highest_number_seals(self) -> None:
        assert KEYS.current == 2

    def test_the_same_text_never_looks_the_same(self) -> None:
        assert len({KEYS.seal("TR330006100519786457841326", PLACE) for _ in range(100)}) == 100

    @pytest.mark.parametrize(
        "elsewhere",
        [Place("customers", 8, "iban"), Place("customers", 7, "phone"), Place("orders", 7, "iban")],
        ids=["another row", "another field", "another table"],
    )
    def test_moved_to_another_place_it_does_not_open(self, elsewhere: Place) -> None:
        with pytest.raises(CannotOpen):
            KEYS.open(KEYS.seal("secret", PLACE), 2, elsewhere)

    def test_places_are_not_confused_however_their_parts_are_cut(self) -> None:
        with pytest.raises(CannotOpen):
            KEYS.open(KEYS.seal("secret", Place("a", "b", "cd")), 2, Place("a", "bc", "d"))

    def test_another_key_or_another_number_does_not_open_it(self) -> None:
        same_key_twice = FieldKeys({1: bytes(32), 2: bytes(32)})
        sealed = same_key_twice.seal("secret", PLACE)
        with pytest.raises(CannotOpen):
            same_key_twice.open(sealed, 1, PLACE)
        with pytest.raises(CannotOpen, match="field key 9"):
            same_key_twice.open(sealed, 9, PLACE)

    def test_every_flipped_bit_is_noticed(self) -> None:
        raw = base64.b64decode(KEYS.seal("secret", PLACE))
        for position in range(len(raw) * 8):
            flipped = bytearray(raw)
            flipped[position // 8] ^= 1 << position % 8
            with pytest.raises(CannotOpen):
                KEYS.open(base64.b64encode(flipped).decode(), 2, PLACE)

    @pytest.mark.parametrize("sealed", ["", "AAAA", "no base64!", "ü"])
    def test_what_was_never_sealed_does_not_open(self, sealed: str) -> None:
        with pytest.raises(CannotOpen):
            KEYS.open(sealed, 2, PLACE)

    def test_neither_errors_nor_prints_say_the_secret_or_a_key(self) -> None:
        with pytest.raises(CannotOpen) as raised:
            KEYS.open(KEYS.seal("canary", PLACE), 2, Place("customers", 8, "iban"))
        assert "canary" not in repr(raised.value)
        assert repr(KEYS) == "FieldKeys()"


class TestDigest:
    def test_it_tells_a_change_and_hides_the_value(self) -> None:
        assert KEYS.digest("a", PLACE) == KEYS.digest("a", PLACE) != KEYS.digest("b", PLACE)
        assert KEYS.digest("a", PLACE) != KEYS.digest("a", Place("customers", 8, "iban"))
        assert KEYS.digest("a", PLACE) != FieldKeys({2: bytes(32)}).digest("a", PLACE)


class TestKeys:
    def test_without_any_the_error_says_what_is_needed(self, tmp_path: Path) -> None:
        with pytest.raises(FieldKeysUnusable, match="BROKAGE_FIELD_KEYS"):
            encryption.load(ServiceSettings(key_dir=None, field_keys=None))
        with pytest.raises(FieldKeysUnusable, match="pii rotate"):
            encryption.load(ServiceSettings(key_dir=str(tmp_path), field_keys=None))

    def test_a_directory_gets_its_first_key_once_and_more_by_rotation(self, tmp_path: Path) -> None:
        assert [encryption.ensure(tmp_path), encryption.ensure(tmp_path)] == [1, 1]
        sealed = encryption.load_directory(tmp_path).seal("secret", PLACE)
        assert encryption.rotate(tmp_path) == 2
        keys = encryption.load(ServiceSettings(key_dir=str(tmp_path), field_keys=None))
        assert keys.current == 2
        assert keys.open(sealed, 1, PLACE) == "secret"

    def test_key_files_are_for_their_owner_only_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        encryption.ensure(tmp_path)
        assert [(path.name, oct(path.stat().st_mode & 0o777)) for path in tmp_path.iterdir()] == [
            ("field-1.key", "0o600")
        ]

    def test_a_key_that_cannot_be_read_stops_everything_also_a_rotation(self, tmp_path: Path) -> None:
        (tmp_path / "field-1.key").write_text("short")
        for act in (encryption.load_directory, encryption.rotate, encryption.ensure):
            with pytest.raises(FieldKeysUnusable, match=r"field-1\.key"):
                act(tmp_path)

    def test_the_environment_goes_before_the_directory(self, tmp_path: Path) -> None:
        encryption.ensure(tmp_path)
        given_keys = SecretStr(f"3:{text_of_key(3)}, 4:{text_of_key(4)}")
        assert encryption.load(ServiceSettings(key_dir=str(tmp_path), field_keys=given_keys)).current == 4

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1",
            "1:",
            "0:" + text_of_key(),
            "x:" + text_of_key(),
            "1:AAAA",
            "32768:" + text_of_key(),
            f"1:{text_of_key()},1:{text_of_key()}",
        ],
    )
    def test_a_wrong_list_is_refused_without_repeating_it(self, text: str) -> None:
        with pytest.raises(FieldKeysUnusable) as raised:
            encryption.load(ServiceSettings(field_keys=SecretStr(text)))
        assert text_of_key() not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "masked"),
    [("+905551234567", "*********4567"), ("12345678901", "*******8901"), ("1234", "**34"), ("1", "*"), ("", "")],
)
def test_mask_shows_at_most_the_last_four_and_never_more_than_half(text: str, masked: str) -> None:
    assert mask(text) == masked
