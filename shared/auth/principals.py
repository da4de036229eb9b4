"""Who may act, as this process knows it: a cached directory over a projection that customer events keep current.

Role, tier and whether an account is active are read here and never from the token, so that a change takes effect within
the cache's second (two, while its store hangs) plus the events' way here, and not when the token runs out.
"""

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from shared.auth.ended_sessions import apply_session_ends, find_session_ends
from shared.auth.permissions import Role
from shared.contracts.customers import CustomerState
from shared.contracts.message import Message
from shared.db import Connection, Database, UnitOfWork
from shared.faults import fault
from shared.gathering import Gathering

if TYPE_CHECKING:
    from shared.auth.broker_customers import BrokerCustomers

CACHE_SECONDS = 1.0
CACHE_ENTRIES_MAX = 20_000
ARRIVAL_SECONDS = 2.0
"""How long what a valid token or an admin names is waited for before it counts as unknown. Source: contract."""
_ARRIVAL_POLL_SECONDS = 0.05
_REFRESH_SECONDS = 0.2
"""How long others are served old entries while one caller asks the store for new ones."""
_LOADED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Principal:
    """A customer, broker, auditor or admin. `brokers` are the ids of those who may act for him; `rate_limit` is his
    tier's, per minute; `ended_sessions` those whose access tokens are refused though they have not run out."""

    customer_id: int
    username: str
    role: Role
    tier: str
    tier_priority: int
    rate_limit: int
    fee_rate: Decimal
    fee_minimum: Decimal
    active: bool
    tokens_valid_from: datetime
    organization_id: str
    beneficial_owner_id: int
    brokers: frozenset[int] = frozenset()
    ended_sessions: frozenset[str] = frozenset()


class PrincipalDirectory(Protocol):
    """What the edge and the use cases ask. `CachedDirectory` is the one implementation; stores differ in what loads
    it. A customer is named by his id; where an external issuer does it, by his username, which never changes."""

    def peek(self, customer: int | str) -> Principal | None:
        """What the cache holds and may still be believed; never blocks."""

    def get(self, customer: int | str) -> Principal | None:
        """The principal, or None when the projection does not hold him. May query the store."""

    async def find(self, customer: int | str) -> Principal | None:
        """The same for the event loop: in a thread, together with all who are looked for in the same moment."""

    def assigned_to(self, broker_id: int) -> frozenset[int]:
        """The customers for whom the broker may act. Queries the store."""

    def wait_for(self, customer: int | str, timeout_seconds: float = ARRIVAL_SECONDS) -> Principal | None:
        """Like `get`, but gives events on their way here `timeout_seconds` to arrive. Blocks: not for the event
        loop."""


@dataclass(slots=True)
class _Entry:
    """Fresh until `expires`, believed until `dies`. `asked`: since it was loaded."""

    principal: Principal
    expires: float
    dies: float
    asked: bool = False


class CachedDirectory:
    """A directory over any store, with a cache of one second and a bounded number of entries.

    Who first finds an entry past its second loads it anew, and with it all that were asked for since: the store gets one
    query a second, however many customers call. Unknown ids are not cached: the one who asks for them is waiting for their
    arrival.

    Args:
        load: the principals of some ids, in one query; who is not known is left out.
    """

    def __init__(
        self,
        load: Callable[[Collection[int]], Iterable[Principal]],
        load_assigned: Callable[[int], frozenset[int]] = lambda _: frozenset(),
        *,
        load_id: Callable[[str], int | None] = lambda _: None,
        cache_seconds: float = CACHE_SECONDS,
        entries_max: int = CACHE_ENTRIES_MAX,
    ) -> None:
        self._load = load
        self._load_assigned = load_assigned
        self._load_id = load_id
        self._ids: OrderedDict[str, int] = OrderedDict()
        self._cache_seconds = cache_seconds
        self._entries_max = entries_max
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._refreshing_until = 0.0
        self._looked_for: Gathering[int | str, Principal | None] = Gathering(self._get_many, at_most=_LOADED_AT_ONCE)

    def peek(self, customer: int | str) -> Principal | None:
        customer_id = self._ids.get(customer) if isinstance(customer, str) else customer
        entry = self._entries.get(customer_id) if customer_id is not None else None
        now = time.monotonic()
        if entry is None or now > entry.dies:
            return None
        entry.asked = True
        if now > entry.expires and now > self._refreshing_until:
            self._refreshing_until = now + _REFRESH_SECONDS
            return None
        return entry.principal

    def get(self, customer: int | str) -> Principal | None:
        return self._get_all([customer])[0]

    async def find(self, customer: int | str) -> Principal | None:
        return await self._looked_for.ask(customer)

    async def _get_many(self, customers: Sequence[int | str]) -> list[Principal | None]:
        from fastapi.concurrency import run_in_threadpool  # here, because workers know principals and serve none

        return await run_in_threadpool(self._get_all, customers)

    def _get_all(self, customers: Sequence[int | str]) -> list[Principal | None]:
        ids = [self._id_of(customer) if isinstance(customer, str) else customer for customer in customers]
        found = {number: self._fresh(number) for number in ids if number is not None}
        missing = [number for number, principal in found.items() if principal is None]
        if missing:
            found.update((principal.customer_id, principal) for principal in self._loaded(missing))
        return [found[number] if number is not None else None for number in ids]

    def _fresh(self, customer_id: int) -> Principal | None:
        entry = self._entries.get(customer_id)
        return entry.principal if entry is not None and time.monotonic() <= entry.expires else None

    def _loaded(self, ids: Sequence[int]) -> list[Principal]:
        principals = list(self._load({*ids, *self._due()}))
        for principal in principals:
            self._keep(principal)
        return principals

    def _due(self) -> list[int]:
        """Whom to load along, because somebody will ask for them."""
        now = time.monotonic()
        with self._lock:
            due = [number for number, entry in self._entries.items() if entry.asked and now > entry.expires]
        return due[:_LOADED_AT_ONCE]

    def wait_for(self, customer: int | str, timeout_seconds: float = ARRIVAL_SECONDS) -> Principal | None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            principal = self.get(customer)
            if principal is not None or time.monotonic() >= deadline:
                return principal
            time.sleep(_ARRIVAL_POLL_SECONDS)

    def _id_of(self, username: str) -> int | None:
        known = self._ids.get(username)
        if known is None:
            known = self._load_id(username)
            if known is not None:
                with self._lock:
                    self._ids[username] = known
                    while len(self._ids) > self._entries_max:
                        self._ids.popitem(last=False)
        return known

    def assigned_to(self, broker_id: int) -> frozenset[int]:
        return self._load_assigned(broker_id)

    def forget(self, customer_id: int) -> None:
        """Drop what is cached, after a change made by this very process."""
        with self._lock:
            self._entries.pop(customer_id, None)

    def _keep(self, principal: Principal) -> None:
        now = time.monotonic()
        with self._lock:
            self._entries[principal.customer_id] = _Entry(
                principal, now + self._cache_seconds, now + 2 * self._cache_seconds
            )
            self._entries.move_to_end(principal.customer_id)
            while len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)


def postgres_directory(database: Database, cache: "BrokerCustomers | None" = None) -> CachedDirectory:
    """The directory of a service that keeps the projection in its own table `principals`. `cache` is asked first for
    whom a broker acts."""

    def load(ids: Collection[int]) -> list[Principal]:
        with database.read() as connection:
            return principals_of(connection, connection.execute(_SELECT, {"ids": list(ids)}).fetchall())

    def load_assigned(broker_id: int) -> frozenset[int]:
        with database.read() as connection:
            rows = connection.execute(_SELECT_ASSIGNED, {"broker_id": broker_id}).fetchall()
        return frozenset(row["customer_id"] for row in rows)

    def load_id(username: str) -> int | None:
        with database.read() as connection:
            row = connection.execute(_SELECT_ID, {"username": username}).fetchone()
        return row["customer_id"] if row else None

    def assigned(broker_id: int) -> frozenset[int]:
        return cache.get(broker_id, load_assigned) if cache is not None else load_assigned(broker_id)

    return CachedDirectory(load, assigned, load_id=load_id)


def principals_of(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[Principal]:
    """From rows as `principal_from_row` takes them, with their ended sessions in one query."""
    ended: dict[int, list[str]] = defaultdict(list)
    for end in find_session_ends(connection, [row["customer_id"] for row in rows]):
        ended[end.customer_id].append(end.session_id)
    return [principal_from_row(row, ended[row["customer_id"]]) for row in rows]


def principal_from_row(row: dict[str, Any], ended_sessions: Iterable[str]) -> Principal:
    """From a row with the columns of the table `principals`, or a document with the same fields."""
    return Principal(
        customer_id=row["customer_id"],
        username=row["username"],
        role=Role(row["role"]),
        tier=row["tier"],
        tier_priority=row["tier_priority"],
        rate_limit=row["rate_limit"],
        fee_rate=Decimal(row["fee_rate"]),
        fee_minimum=Decimal(row["fee_minimum"]),
        active=row["active"],
        tokens_valid_from=row["tokens_valid_from"],
        organization_id=row["organization_id"],
        beneficial_owner_id=row["beneficial_owner_id"],
        brokers=frozenset(row["brokers"] or ()),
        ended_sessions=frozenset(ended_sessions),
    )


def latest_customer_states(messages: Sequence[Message[Any]]) -> list[Message[CustomerState]]:
    """The newest state of each customer among `messages`; other messages are passed over."""
    newest: dict[str, Message[CustomerState]] = {}
    for message in messages:
        if not isinstance(message.payload, CustomerState):
            continue
        known = newest.get(message.aggregate_id)
        if known is None or known.aggregate_version < message.aggregate_version:
            newest[message.aggregate_id] = message
    return sorted(newest.values(), key=lambda message: message.payload.customer_id)


def apply_customer_events(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Bring the tables `principals`, in one statement, and `ended_sessions` up to these events.

    A version not newer than the stored one changes nothing, so repeats, late arrivals and republished states are
    harmless. Rows are written in ascending order of id: two writers cannot deadlock.
    """
    apply_session_ends(uow, messages)
    states = latest_customer_states(messages)
    if not states:
        return
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for message in states:
        for name, value in _row(message).items():
            columns[name].append(value)
    uow.connection.execute(_UPSERT, columns)
    fault("principals.applied")


def _row(message: Message[CustomerState]) -> dict[str, Any]:
    state = message.payload
    return {
        "customer_id": state.customer_id,
        "username": state.username,
        "role": state.role,
        "tier": state.tier,
        "tier_priority": state.tier_priority,
        "rate_limit": state.rate_limit,
        "fee_rate": state.fee_rate,
        "fee_minimum": state.fee_minimum,
        "active": state.active,
        "tokens_valid_from": state.tokens_valid_from,
        "organization_id": message.organization_id,
        "beneficial_owner_id": state.beneficial_owner_id,
        # An array of arrays cannot be ragged in Postgres, so each list travels as its literal.
        "brokers": "{" + ",".join(map(str, state.brokers)) + "}",
        "version": message.aggregate_version,
    }


_COLUMNS = (
    "customer_id",
    "username",
    "role",
    "tier",
    "tier_priority",
    "rate_limit",
    "fee_rate",
    "fee_minimum",
    "active",
    "tokens_valid_from",
    "organization_id",
    "beneficial_owner_id",
    "brokers",
    "version",
)

_SELECT = "SELECT * FROM principals WHERE customer_id = ANY(%(ids)s::bigint[])"

_SELECT_ID = "SELECT customer_id FROM principals WHERE username = %(username)s"

_SELECT_ASSIGNED = "SELECT customer_id FROM principals WHERE brokers @> ARRAY[%(broker_id)s::bigint]"

_UPSERT = """
INSERT INTO principals AS p (customer_id, username, role, tier, tier_priority, rate_limit, fee_rate, fee_minimum,
                             active, tokens_valid_from, organization_id, beneficial_owner_id, brokers, version)
SELECT v.customer_id, v.username, v.role, v.tier, v.tier_priority, v.rate_limit, v.fee_rate, v.fee_minimum,
       v.active, v.tokens_valid_from, v.organization_id, v.beneficial_owner_id, v.brokers::bigint[], v.version
FROM unnest(%(customer_id)s::bigint[], %(username)s::text[], %(role)s::text[], %(tier)s::text[],
            %(tier_priority)s::int[], %(rate_limit)s::int[], %(fee_rate)s::numeric[], %(fee_minimum)s::numeric[],
            %(active)s::boolean[], %(tokens_valid_from)s::timestamptz[], %(organization_id)s::uuid[],
            %(beneficial_owner_id)s::bigint[], %(brokers)s::text[], %(version)s::int[])
     AS v (customer_id, username, role, tier, tier_priority, rate_limit, fee_rate, fee_minimum,
           active, tokens_valid_from, organization_id, beneficial_owner_id, brokers, version)
ORDER BY v.customer_id
ON CONFLICT (customer_id) DO UPDATE SET
    username = excluded.username, role = excluded.role, tier = excluded.tier,
    tier_priority = excluded.tier_priority, rate_limit = excluded.rate_limit, fee_rate = excluded.fee_rate,
    fee_minimum = excluded.fee_minimum, active = excluded.active, tokens_valid_from = excluded.tokens_valid_from,
    organization_id = excluded.organization_id, beneficial_owner_id = excluded.beneficial_owner_id,
    brokers = excluded.brokers, version = excluded.version
WHERE p.version < excluded.version
"""
