"""What is said of a customer's change."""

from typing import Any

from customer_service.service.events import changes, digest_of_personal, said


def row(**changed: Any) -> dict[str, Any]:
    basis = {
        "id": 7,
        "email": "a@example.org",
        "full_name": None,
        "role": "CUSTOMER",
        "tier": "VIP",
        "active": True,
        "brokers": [],
        "beneficial_owner_id": 7,
    }
    return {**basis, **changed}


def test_personal_data_is_a_digest_that_tells_change_from_sameness() -> None:
    first, second = said(row()), said(row(email="b@example.org"))
    assert "example.org" not in str(first)
    assert first["email"] != second["email"]
    assert first["email"] == said(row(tier="STANDARD"))["email"]
    assert first["full_name"] is None


def test_the_same_value_of_two_people_is_not_linked() -> None:
    assert digest_of_personal(1, "a@example.org") != digest_of_personal(2, "a@example.org")


def test_only_what_changed_is_said() -> None:
    assert changes(said(row()), said(row(tier="STANDARD"))) == ({"tier": "VIP"}, {"tier": "STANDARD"})
    assert changes(said(row()), said(row())) == ({}, {})
