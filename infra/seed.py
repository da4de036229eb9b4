"""What a new system starts with: a signing key, an admin, and with `demo` the accounts, instruments and balances of the tour.

Through the services' own use cases, so that everything is announced, audited and in the ledger as if a person had done it.
Running it again changes nothing.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit
from asset_service.settings import Settings as AssetSettings
from customer_service import repository as customers
from customer_service.passwords import Passwords
from customer_service.service.customers import Registration, ensure_assignment, ensure_customer
from customer_service.settings import Settings as CustomerSettings
from shared.auth import keys
from shared.auth.permissions import Role
from shared.db import Database
from shared.settings import Profile


@dataclass(frozen=True, slots=True)
class DemoUser:
    username: str
    role: Role
    tier: str = "STANDARD"

    @property
    def password(self) -> str:
        return f"demo-{self.username}"


DEMO_USERS = (
    DemoUser("admin", Role.ADMIN),
    DemoUser("broker", Role.BROKER),
    DemoUser("auditor", Role.AUDITOR),
    DemoUser("trader1", Role.CUSTOMER, "VIP"),
    DemoUser("trader2", Role.CUSTOMER, "PREMIUM"),
    DemoUser("trader3", Role.CUSTOMER),
)
_TRADERS = ("trader1", "trader2", "trader3")
_SERVED_BY_BROKER = ("trader1", "trader2")
_CASH, _CASH_SCALE = "TRY", 8
_SHARES = ("AAPL", "GOOGL", "THYAO")
_SIZE_SCALE, _PRICE_SCALE = 6, 2
_BALANCES = {_CASH: Decimal(1_000_000), **dict.fromkeys(_SHARES, Decimal(1_000))}
ADMIN_PASSWORD_FILE = "admin-password"


class DemoInProduction(Exception):
    """Well-known passwords have no place in a production profile."""


def seed(environment: Mapping[str, str], *, demo: bool) -> None:
    """Seed the databases that `environment` names.

    Raises:
        DemoInProduction: `demo` with `BROKAGE_PROFILE=prod`.
    """
    os.environ.update(environment)
    settings = CustomerSettings()
    if demo and settings.profile is Profile.PROD:
        raise DemoInProduction("--demo is refused in the prod profile")
    if settings.key_dir is not None:
        keys.ensure(Path(settings.key_dir))
    database = Database(settings.customers_database_url, name="seed", pool_size=1)
    try:
        if demo:
            ids = {user.username: _ensure_user(database, settings, user) for user in DEMO_USERS}
            for trader in _SERVED_BY_BROKER:
                ensure_assignment(database, ids["broker"], ids[trader])
            _seed_assets(ids)
        else:
            _ensure_admin(database, settings)
    finally:
        database.close()


def _ensure_user(database: Database, settings: CustomerSettings, user: DemoUser, password: str | None = None) -> int:
    with database.read() as connection:
        known = customers.find_state_by_username(connection, user.username)
    if known is not None:
        found: int = known["id"]
        return found
    password_hash = Passwords(settings).hash(password or user.password)
    return ensure_customer(
        database,
        Registration(
            username=user.username,
            password_hash=password_hash,
            email=f"{user.username}@example.com",
            role=user.role,
            tier=user.tier,
        ),
    )


def _ensure_admin(database: Database, settings: CustomerSettings) -> None:
    """An empty system gets an admin. His password is `BROKAGE_ADMIN_PASSWORD`, or a random one left in the data directory."""
    with database.read() as connection:
        if customers.list_states(connection, after_id=0, limit=1):
            return
    password = os.environ.get("BROKAGE_ADMIN_PASSWORD")
    directory = os.environ.get("BROKAGE_DATA_DIR")
    if password is None and directory is not None:
        password = secrets.token_urlsafe(18)
        file = Path(directory) / ADMIN_PASSWORD_FILE
        file.touch(mode=0o600)
        file.write_text(password + "\n", encoding="utf-8")
    if password is not None:
        _ensure_user(database, settings, DemoUser("admin", Role.ADMIN), password)


def _seed_assets(ids: dict[str, int]) -> None:
    database = Database(AssetSettings().assets_database_url, name="seed", pool_size=1)
    try:
        database.run(lambda unit: put_instrument(unit, asset_name=_CASH, quote_asset=None, size_scale=_CASH_SCALE))
        for name in _SHARES:
            database.run(
                lambda unit, name=name: put_instrument(  # type: ignore[misc]
                    unit, asset_name=name, quote_asset=_CASH, size_scale=_SIZE_SCALE, price_scale=_PRICE_SCALE
                )
            )
        for trader in _TRADERS:
            for asset_name, amount in _BALANCES.items():
                database.run(
                    lambda unit, trader=trader, asset_name=asset_name, amount=amount: deposit(  # type: ignore[misc]
                        unit,
                        customer_id=ids[trader],
                        asset_name=asset_name,
                        amount=amount,
                        reference=f"demo-{asset_name}",
                    )
                )
    finally:
        database.close()
