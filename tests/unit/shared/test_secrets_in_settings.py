"""What the environment holds is not told to a log: neither by what is printed nor by an error at the start."""

import pytest
from pydantic import ValidationError

from order_service.settings import Settings
from shared.app import EdgeSettings, create_app
from shared.auth.key_set import NoKeys

CANARY = "canary-of-a-password"


def test_a_setting_that_is_missing_or_wrong_is_named_and_no_other_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKAGE_ORDERS_DATABASE_URL", raising=False)
    monkeypatch.setenv("BROKAGE_REDIS_URL", f"redis://:{CANARY}@127.0.0.1")
    monkeypatch.setenv("BROKAGE_LANES", CANARY)
    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert "orders_database_url" in str(refusal.value)
    assert "lanes" in str(refusal.value)
    assert CANARY not in str(refusal.value)


def test_printed_settings_say_nothing() -> None:
    settings = Settings(orders_database_url=f"postgresql://u:{CANARY}@h/d")
    assert CANARY not in f"{settings} {settings!r}"


def test_an_api_without_keys_to_verify_tokens_with_does_not_start() -> None:
    app = create_app([], EdgeSettings(key_dir=None, jwks_url=None, oidc_issuer=None))
    with pytest.raises(NoKeys):
        app.build_middleware_stack()
