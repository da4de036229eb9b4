"""Bodies of customer_service: what cannot be."""

from typing import Any

import pytest
from pydantic import ValidationError

from customer_service.schemas import CustomerCreate, CustomerUpdate, PreferencesWrite

GOOD = {"username": "ayse", "password": "a good one"}


@pytest.mark.parametrize(
    "change",
    [
        {"username": "ab"},
        {"username": "Ayse"},
        {"username": "-ayse"},
        {"username": "a" * 65},
        {"username": "аyse"},  # Cyrillic а
        {"username": "ayse\n"},
        {"password": "x" * 257},
        {"email": "a@b"},
        {"email": "a b@example.org"},
        {"email": "a@@example.org"},
        {"email": "a\u200b@example.org"},
        {"phone": "+90 555"},
        {"phone": "+0555123456"},
        {"phone": 905551234567},
        {"national_id": "1234"},
        {"national_id": "123 456"},
        {"iban": "TR330006100519786457841327"},  # the last digit is another
        {"iban": "TR33 0006 1005 1978 6457 8413 26"},
        {"iban": "TR3300061005"},
        {"full_name": ""},
        {"full_name": "a\r\nb"},
        {"tier": "gold"},
        {"beneficial_owner_id": 0},
        {"beneficial_owner_id": True},
        {"password_hash": "x"},
    ],
    ids=str,
)
def test_customers(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CustomerCreate.model_validate({**GOOD, **change})


@pytest.mark.parametrize("iban", ["TR330006100519786457841326", "DE89370400440532013000", "NO9386011117947"])
def test_an_iban_with_the_right_check_digits(iban: str) -> None:
    assert CustomerCreate.model_validate({**GOOD, "iban": iban}).iban == iban


def test_a_patch_knows_what_was_left_out() -> None:
    assert CustomerUpdate.model_validate({"phone": None}).model_dump(exclude_unset=True) == {"phone": None}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email_enabled": "true"},
        {"email_enabled": 1},
        {"email_enabled": True, "preferences": {"$where": True}},
        {"email_enabled": True, "preferences": {"OrderMatched": {"$ne": None}}},
        {"email_enabled": True, "preferences": {f"A{'b' * n}": True for n in range(65)}},
    ],
    ids=str,
)
def test_preferences(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PreferencesWrite.model_validate(body)
