"""Who trades in a fault run: customers of its own, so that every balance of theirs is explained by the run's own history."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from customer_service.passwords import Passwords
from customer_service.service.customers import Registration, ensure_assignment, ensure_customer, ensure_tier
from customer_service.settings import Settings
from infra.faults.client import Client, Session, refused_for_now
from infra.faults.history import Outcome, Request
from infra.faults.system import System, wait_until
from shared.auth.permissions import Role
from shared.db import Database
from shared.ids import new_id

CASH = "TRY"
TIER = "FAULTS"
SWEPT = ("FAULTA", "FAULTB")
CROSSED = "FAULTC"
PROBED = "FAULTP"
SHARES = (*SWEPT, CROSSED)
PASSWORD = "as good as any"
START_CASH, START_SHARES = Decimal(1_000_000), Decimal(5_000)
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class People:
    """`customers` trade in SHARES, the two `probes` in PROBED alone. `broker` serves the first two customers."""

    admin: Session
    auditor: Session
    broker: Session
    customers: list[Session]
    probes: list[Session]

    @property
    def traders(self) -> list[Session]:
        return [*self.customers, *self.probes]

    @property
    def served(self) -> list[Session]:
        return self.customers[:2]

    def scope(self, session: Session) -> set[int] | None:
        """Whose things this user may see; None: everybody's."""
        if session.role == "CUSTOMER":
            return {session.customer_id}
        if session.role == "BROKER":
            return {each.customer_id for each in self.served}
        return None


def register(system: System, customers: int) -> People:
    """Customers whom no rate limit holds up, straight into their service's database."""
    settings = Settings(customers_database_url="", argon2_time_cost=1, argon2_memory_kib=64)
    hashed = Passwords(settings).hash(PASSWORD)
    database = Database(system.environment["BROKAGE_CUSTOMERS_DATABASE_URL"], name="faults", pool_size=1)

    def ensure(username: str, role: Role = Role.CUSTOMER) -> Session:
        tier = TIER if role is Role.CUSTOMER else "STANDARD"
        id = ensure_customer(database, Registration(username, hashed, role=role, tier=tier))
        return Session(username, PASSWORD, id, str(role))

    try:
        ensure_tier(database, tier_code=TIER, tier_name="Fault run", priority=9, rate_limit=1_000_000)
        people = People(
            admin=Session("admin", "demo-admin", role="ADMIN"),
            auditor=Session("auditor", "demo-auditor", role="AUDITOR"),
            broker=ensure("faultbroker", Role.BROKER),
            customers=[ensure(f"fault{number}") for number in range(1, customers + 1)],
            probes=[ensure(f"probe{number}") for number in (1, 2)],
        )
        for each in people.served:
            ensure_assignment(database, people.broker.customer_id, each.customer_id)
        return people
    finally:
        database.close()


def endow(client: Client, people: People) -> None:
    """Instruments, and a first deposit of everything for everybody; before any fault."""
    for share in (*SHARES, PROBED):
        terms = {"quote_asset": CASH, "size_scale": 6, "price_scale": 2, "status": "TRADING"}
        request = client.history.new(
            "instrument", people.admin.username, 0, "PUT", f"/api/instruments/{share}", body=terms, keyed_by="path"
        )
        surely(client, request, people.admin)
    for session in people.traders:
        shares = (PROBED,) if session in people.probes else SHARES
        for asset_name, amount in {CASH: START_CASH, **dict.fromkeys(shares, START_SHARES)}.items():
            surely(client, deposit(client, people.admin, session.customer_id, asset_name, amount), people.admin)


def deposit(client: Client, admin: Session, customer_id: int, asset_name: str, amount: Decimal) -> Request:
    reference = new_id()
    body = {"customer_id": customer_id, "asset_name": asset_name, "amount": str(amount), "reference": reference}
    return client.history.new(
        "deposit",
        admin.username,
        admin.customer_id,
        "POST",
        "/api/assets/deposit",
        body=body,
        key=reference,
        keyed_by="body",
    )


def surely(client: Client, request: Request, session: Session, seconds: float = _SECONDS) -> Request:
    """Send it until there is an answer that will not change. Raises NotInTime."""

    def answered() -> bool:
        attempt = client.attempt(request, session)
        # Right after the start services may not know yet whom or what another one has just been told.
        if refused_for_now(attempt) or attempt.code == "not-yet-known":
            return False
        if attempt.outcome is Outcome.REFUSED and attempt.status in (404, 422) and request.kind == "deposit":
            return False
        return attempt.outcome is not Outcome.UNKNOWN

    wait_until(answered, seconds, f"an answer to {request.kind} {request.key or request.path}")
    return request
