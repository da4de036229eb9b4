"""One thing is broken in an otherwise clean system: exactly its invariant is named, with the row."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from reconcile_world import IMPATIENT, World

from asset_service.ledger import Leg, digest
from infra.reconcile import telling
from infra.reconcile.check import Examined
from infra.reconcile.stores import Stores
from shared.clock import utc_now
from shared.ids import new_id

ID, OTHER_ID = new_id(), new_id()
OPEN_ORDER = "(SELECT id FROM orders WHERE status = 'ORDER_CONFIRMED' ORDER BY id LIMIT 1)"
RESTING = "(SELECT saga_id FROM saga_instances WHERE current_state = 'RESTING' ORDER BY saga_id LIMIT 1)"
RICH = "(SELECT id FROM assets WHERE usable_size > 10 ORDER BY id LIMIT 1)"
A_BATCH = "(SELECT id FROM outbox_events WHERE destination = 'processor' ORDER BY id DESC LIMIT 1)"
COMPLETED = "(SELECT id FROM orders WHERE status = 'MATCHED' ORDER BY id LIMIT 1)"


def legs(tx_ref: str, *entries: tuple[str, int]) -> list[str]:
    """SQL of a ledger transaction with its true digest, between system accounts of TRY."""
    said = digest([Leg(account, "TRY", Decimal(amount)) for account, amount in entries])
    return [
        "INSERT INTO ledger_transactions (tx_ref, kind, source_type, source_id, digest)"
        f" VALUES ('{tx_ref}', 'TEST', 'test', 'test', '{said}')",
        *(
            "INSERT INTO ledger_entries (id, tx_ref, account_id, asset_name, amount)"
            f" VALUES ('{new_id()}', '{tx_ref}', '{account}', 'TRY', {amount})"
            for account, amount in entries
        ),
    ]


def without(tx_ref: str) -> list[str]:
    return [f"DELETE FROM {table} WHERE tx_ref = '{tx_ref}'" for table in ("ledger_entries", "ledger_transactions")]


@dataclass(frozen=True)
class Plant:
    """`says`: a part of the finding."""

    name: str
    invariant: int
    service: str
    break_it: list[str]
    mend_it: list[str]
    says: str


PLANTS = [
    Plant(
        "more usable than there is",
        1,
        "asset_service",
        [
            "ALTER TABLE assets DROP CONSTRAINT ck_assets_usable_size",
            "INSERT INTO asset_reservations (id, asset_id, customer_id, asset_name, holder_type, holder_id, leg, amount, status)"
            f" SELECT '{ID}', id, customer_id, asset_name, 'QUOTE', '{ID}', 'QUOTE', usable_size + 5, 'ACTIVE'"
            f" FROM assets WHERE id = {RICH}",
            f"UPDATE assets SET usable_size = -5 WHERE id = {RICH}",
        ],
        [
            f"UPDATE assets AS a SET usable_size = r.amount - 5 FROM asset_reservations AS r"
            f" WHERE r.id = '{ID}' AND a.id = r.asset_id",
            f"DELETE FROM asset_reservations WHERE id = '{ID}'",
            "ALTER TABLE assets ADD CONSTRAINT ck_assets_usable_size CHECK (usable_size >= 0 AND usable_size <= size)",
        ],
        "usable_size -5",
    ),
    Plant(
        "blocked without a reservation",
        2,
        "asset_service",
        [f"UPDATE assets SET usable_size = usable_size - 1, version = -version WHERE id = {RICH}"],
        ["UPDATE assets SET usable_size = usable_size + 1, version = -version WHERE version < 0"],
        "is blocked, but active reservations need",
    ),
    Plant(
        "a balance from nowhere",
        3,
        "asset_service",
        [f"UPDATE assets SET size = size + 1, usable_size = usable_size + 1, version = -version WHERE id = {RICH}"],
        ["UPDATE assets SET size = size - 1, usable_size = usable_size - 1, version = -version WHERE version < 0"],
        "account customer:",
    ),
    Plant(
        "a transaction that makes money",
        3,
        "asset_service",
        legs("test:unbalanced", ("external:TRY", 1), ("house:TRY", 1)),
        without("test:unbalanced"),
        "transaction test:unbalanced: sums to 2 TRY",
    ),
    Plant(
        "entries without a transaction",
        3,
        "asset_service",
        legs("test:orphans", ("external:TRY", 1), ("house:TRY", -1))[1:],
        without("test:orphans"),
        "there is no such transaction",
    ),
    Plant(
        "a leg on another account",
        4,
        "asset_service",
        [
            "UPDATE ledger_entries SET account_id = 'rounding:TRY' WHERE account_id = 'external:TRY'"
            " AND tx_ref = (SELECT tx_ref FROM ledger_transactions WHERE kind = 'DEPOSIT' ORDER BY tx_ref LIMIT 1)"
        ],
        ["UPDATE ledger_entries SET account_id = 'external:TRY' WHERE account_id = 'rounding:TRY'"],
        "its legs are not those that were posted",
    ),
    Plant(
        "a reservation of too much",
        5,
        "asset_service",
        [
            "UPDATE assets SET usable_size = usable_size - 1 WHERE id = (SELECT asset_id FROM asset_reservations"
            " WHERE status = 'ACTIVE' ORDER BY id LIMIT 1)",
            "UPDATE asset_reservations SET amount = amount + 1, version = -version"
            " WHERE id = (SELECT id FROM asset_reservations WHERE status = 'ACTIVE' ORDER BY id LIMIT 1)",
        ],
        [
            "UPDATE assets SET usable_size = usable_size + 1"
            " WHERE id = (SELECT asset_id FROM asset_reservations WHERE version < 0)",
            "UPDATE asset_reservations SET amount = amount - 1, version = -version WHERE version < 0",
        ],
        "it needs",
    ),
    Plant(
        "a reservation of nobody's order",
        5,
        "asset_service",
        [
            "INSERT INTO asset_reservations (id, asset_id, customer_id, asset_name, holder_type, holder_id, leg, amount, status)"
            f" SELECT '{ID}', id, customer_id, asset_name, 'ORDER', '{ID}', 'SECOND', 5, 'ACTIVE' FROM assets WHERE id = {RICH}",
            f"UPDATE assets SET usable_size = usable_size - 5, version = -version WHERE id = {RICH}",
        ],
        [
            f"DELETE FROM asset_reservations WHERE id = '{ID}'",
            "UPDATE assets SET usable_size = usable_size + 5, version = -version WHERE version < 0",
        ],
        f"order {ID}: a reservation is active for an order that does not exist",
    ),
    Plant(
        "a trade of another size",
        6,
        "processor",
        [
            "UPDATE trades SET size = size + 1 WHERE id = (SELECT max(id::text)::uuid FROM trades WHERE status = 'SETTLED')"
        ],
        [
            "UPDATE trades SET size = size - 1 WHERE id = (SELECT max(id::text)::uuid FROM trades WHERE status = 'SETTLED')"
        ],
        "its legs in the ledger are not those of",
    ),
    Plant(
        "an order filled by less than was settled",
        6,
        "order_service",
        ["UPDATE orders SET filled_size = 2 WHERE filled_size = 2.5"],
        ["UPDATE orders SET filled_size = 2.5 WHERE filled_size = 2"],
        "its filled_size is 2, its settled trades say 2.5",
    ),
    Plant(
        "a trade that only the ledger knows",
        6,
        "asset_service",
        legs(f"trade:{ID}", ("external:TRY", 1), ("house:TRY", -1)),
        without(f"trade:{ID}"),
        f"trade {ID}: the ledger has settled a trade that was never made",
    ),
    Plant(
        "a saga that has gone elsewhere",
        7,
        "processor",
        [f"UPDATE saga_instances SET current_state = 'CLOSING', step = -step WHERE saga_id = {RESTING}"],
        ["UPDATE saga_instances SET current_state = 'RESTING', step = -step WHERE step < 0"],
        "its reservation ACTIVE, its saga CLOSING",
    ),
    Plant(
        "a saga that needs a person",
        7,
        "processor",
        [f"UPDATE saga_instances SET current_state = 'NEEDS_HUMAN', step = -step WHERE saga_id = {RESTING}"],
        ["UPDATE saga_instances SET current_state = 'RESTING', step = -step WHERE step < 0"],
        "it is NEEDS_HUMAN",
    ),
    Plant(
        "an answer that never came",
        7,
        "processor",
        [
            "UPDATE saga_instances SET current_state = 'CONFIRMING', awaiting = true, step = -step,"
            " deadline_at = brokage_now() - interval '1 hour' WHERE saga_id ="
            " (SELECT id FROM matching_queue WHERE filled_size = 0 ORDER BY id LIMIT 1)"
        ],
        [
            "UPDATE saga_instances SET current_state = 'RESTING', awaiting = false, step = -step, deadline_at = NULL"
            " WHERE step < 0"
        ],
        "its answer is long overdue",
    ),
    Plant(
        "a saga of a trade that forgot its end",
        7,
        "processor",
        [
            "UPDATE saga_instances SET current_state = 'SETTLED', step = -step WHERE saga_type = 'TRADE'"
            " AND current_state = 'BUSTED'"
        ],
        ["UPDATE saga_instances SET current_state = 'BUSTED', step = -step WHERE step < 0"],
        "it is BUSTED, its saga SETTLED",
    ),
    Plant(
        "a step of the history that cannot be",
        7,
        "order_service",
        [f"UPDATE order_history SET status = 'EXPIRED' WHERE seq = 4 AND order_id = {COMPLETED}"],
        [f"UPDATE order_history SET status = 'ORDER_CONFIRMED' WHERE seq = 4 AND order_id = {COMPLETED}"],
        "its history goes from ASSET_RESERVED to EXPIRED",
    ),
    Plant(
        "a batch that was never processed",
        8,
        "asset_service",
        [
            f"UPDATE processed_events SET event_id = '{ID}', processed_at = processed_at - interval '2 days'"
            " WHERE event_id = (SELECT max(event_id::text)::uuid FROM processed_events)"
        ],
        [],  # by the test
        "asset_service has acknowledged, but not processed it",
    ),
    Plant(
        "an event from nowhere",
        8,
        "processor",
        [f"INSERT INTO processed_events (consumer, event_id, state) VALUES ('processor', '{ID}', 'DONE')"],
        [f"DELETE FROM processed_events WHERE event_id = '{ID}'"],
        f"processed event {ID}: processor has processed what nobody sent",
    ),
    Plant(
        "a batch that is stuck",
        8,
        "asset_service",
        [f"UPDATE outbox_events SET acked_at = NULL, status = 'SENT' WHERE id = {A_BATCH}"],
        ["UPDATE outbox_events SET acked_at = created_at, status = 'ACKED' WHERE acked_at IS NULL"],
        "from asset_service to processor/",
    ),
    Plant(
        "a batch that is parked for no reason",
        8,
        "asset_service",
        [f"UPDATE outbox_events SET status = 'PARKED' WHERE id = {A_BATCH}"],
        ["UPDATE outbox_events SET status = 'ACKED' WHERE status = 'PARKED'"],
        "it is parked, but no dead letter says why",
    ),
    Plant(
        "a dead letter",
        8,
        "order_service",
        [
            "INSERT INTO dead_letters (id, consumer, event_id, event_type, aggregate_type, aggregate_id, status, reason, message)"
            f" VALUES ('{ID}', 'order_service', '{OTHER_ID}', 'ConfirmOrder', 'order', '{ID}', 'PARKED', 'FAILED', '{{}}')"
        ],
        [f"DELETE FROM dead_letters WHERE id = '{ID}'"],
        f"dead letter {OTHER_ID}: ConfirmOrder of order {ID} is PARKED at order_service: FAILED",
    ),
]


def named(world: World) -> tuple[set[int], list[str]]:
    """The broken invariants, and what is said of them."""
    found = world.reconcile()
    broken = {number for number, examined in found.items() if examined.broken}
    return broken, [f"{f.row}: {f.reason}" for number in broken for f in found[number].findings]


def test_a_clean_system_has_no_findings_and_every_invariant_examines_rows(world: World) -> None:
    found = world.reconcile()
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {number: examined.findings for number, examined in found.items() if examined.broken} == {}
    assert all(examined.rows > 0 and not examined.moving for examined in found.values())


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_exactly_the_broken_invariant_is_named(world: World, plant: Plant) -> None:
    mend = plant.mend_it
    if not mend:
        kept = world.one(plant.service, "SELECT max(event_id::text) FROM processed_events")
        mend = [
            f"UPDATE processed_events SET event_id = '{kept}', processed_at = processed_at + interval '2 days'"
            f" WHERE event_id = '{ID}'"
        ]
    with world.broken(plant.service, plant.break_it, mend):
        broken, said = named(world)
    assert broken == {plant.invariant}, said
    assert any(plant.says in line for line in said), said
    assert named(world) == (set(), [])


class TestDocuments:
    """The same in the stores of the notifier and the auditor."""

    def check(
        self, world: World, store: str, collection: str, invariant: int, says: str, change: Any, undo: Any
    ) -> None:
        with world.documents(store) as database:
            change(database[collection])
            try:
                broken, said = named(world)
            finally:
                undo(database[collection])
        assert broken == {invariant}, said
        assert any(says in line for line in said), said
        assert named(world) == (set(), [])

    def test_an_event_that_the_notifier_processed_without_being_sent(self, world: World) -> None:
        row = {"_id": ID, "consumer": "notifier", "state": "DONE", "processed_at": utc_now()}
        says = f"processed event {ID}: notifier has processed what nobody sent"
        self.check(
            world,
            "notifier",
            "processed_events",
            8,
            says,
            lambda rows: rows.insert_one(row),
            lambda rows: rows.delete_one({"_id": ID}),
        )

    def test_a_batch_that_the_auditor_did_not_process(self, world: World) -> None:
        with world.documents("auditor") as database:
            row = database["processed_events"].find_one({})
        self.check(
            world,
            "auditor",
            "processed_events",
            8,
            "auditor has acknowledged, but not processed it",
            lambda rows: rows.delete_one({"_id": row["_id"]}),
            lambda rows: rows.insert_one(row),
        )

    def test_a_dead_letter_of_the_notifier(self, world: World) -> None:
        letter = {
            "_id": ID,
            "consumer": "notifier",
            "event_id": OTHER_ID,
            "event_type": "OrderMatched",
            "aggregate_type": "order",
            "aggregate_id": ID,
            "status": "HELD",
            "reason": "waits",
            "resolved_at": None,
        }
        self.check(
            world,
            "notifier",
            "dead_letters",
            8,
            f"OrderMatched of order {ID} is HELD at notifier: waits",
            lambda rows: rows.insert_one(letter),
            lambda rows: rows.delete_one({"_id": ID}),
        )

    def test_a_changed_audit_record(self, world: World) -> None:
        self.check(
            world,
            "auditor",
            "audit_logs",
            9,
            "audit record 3: the chain is broken here",
            lambda rows: rows.update_one({"seq": 3}, {"$set": {"tampered": True}}),
            lambda rows: rows.update_one({"seq": 3}, {"$unset": {"tampered": ""}}),
        )

    def test_an_event_without_audit_record(self, world: World) -> None:
        with world.documents("auditor") as database:
            [record] = database["audit_logs"].find({}).sort("seq", -1).limit(1)
        self.check(
            world,
            "auditor",
            "audit_logs",
            9,
            f"event {record['event_id']}: no audit record of",
            lambda rows: rows.delete_one({"_id": record["_id"]}),
            lambda rows: rows.insert_one(record),
        )

    def test_what_is_older_than_the_trail_is_kept_may_be_in_the_archive(self, world: World) -> None:
        with world.documents("auditor") as database:
            record = database["audit_logs"].find_one({"action": "FundsDeposited"})
            assert record is not None
            database["audit_logs"].delete_one({"_id": record["_id"]})
            back = f"UPDATE transfers SET created_at = created_at {{}} interval '500 days' WHERE id = '{record['entity_id']}'"
            try:
                before = self.untold(world)
                with world.broken("asset_service", [back.format("-")], [back.format("+")]):
                    after = self.untold(world)
            finally:
                database["audit_logs"].insert_one(record)
        assert before == [f"transfer {record['entity_id']}: 0 audit records of FundsDeposited or FundsWithdrawn"]
        assert after == []

    def untold(self, world: World) -> list[str]:
        examined = Examined(limit=20)
        with Stores(world.environment, IMPATIENT) as stores, telling.noted(stores) as notes:
            telling.check(stores, notes, examined)
        return [f"{finding.row}: {finding.reason}" for finding in examined.findings]

    def test_a_customer_who_was_not_told(self, world: World) -> None:
        with world.documents("notifier") as database:
            told = database["notifications"].find_one({"event_type": "OrderMatched"})
        self.check(
            world,
            "notifier",
            "notifications",
            9,
            f"customer {told['customer_id']} was told 0 times of OrderMatched",
            lambda rows: rows.delete_one({"_id": told["_id"]}),
            lambda rows: rows.insert_one(told),
        )

    def test_a_customer_who_was_told_twice(self, world: World) -> None:
        with world.documents("notifier") as database:
            told = database["notifications"].find_one({"event_type": "OrderMatched"})
        again = {**told, "_id": ID, "notification_id": ID, "template": "another"}
        self.check(
            world,
            "notifier",
            "notifications",
            9,
            f"customer {told['customer_id']} was told 2 times of OrderMatched",
            lambda rows: rows.insert_one(again),
            lambda rows: rows.delete_one({"_id": ID}),
        )


class TestParkedBatches:
    """Each is a finding as long as anything of it, or of its aggregates, waits for a person."""

    def letter(self, event_id: str, aggregate_id: str, *, resolved: bool) -> str:
        status = ("REQUEUED", "brokage_now()") if resolved else ("PARKED", "NULL")
        return (
            "INSERT INTO dead_letters (id, consumer, event_id, event_type, aggregate_type, aggregate_id, reason, message,"
            f" status, resolved_at) VALUES ('{ID}', 'processor', '{event_id}', 'AssetReserved', 'order', '{aggregate_id}',"
            f" 'FAILED', '{{}}', '{status[0]}', {status[1]})"
        )

    def named_with(self, world: World, letter: str) -> tuple[set[int], list[str]]:
        parked = [f"UPDATE outbox_events SET status = 'PARKED' WHERE id = {A_BATCH}"]
        acked = ["UPDATE outbox_events SET status = 'ACKED' WHERE status = 'PARKED'"]
        with (
            world.broken("asset_service", parked, acked),
            world.broken("processor", [letter], [f"DELETE FROM dead_letters WHERE id = '{ID}'"]),
        ):
            return named(world)

    def an_event(self, world: World, field: str) -> str:
        return str(
            world.one("asset_service", f"SELECT payload -> 0 ->> '{field}' FROM outbox_events WHERE id = {A_BATCH}")
        )

    def test_one_whose_letters_were_put_back_is_none(self, world: World) -> None:
        assert self.named_with(world, self.letter(self.an_event(world, "event_id"), "x", resolved=True)) == (set(), [])

    def test_one_with_an_open_letter_is_named_beside_it(self, world: World) -> None:
        event_id = self.an_event(world, "event_id")
        broken, said = self.named_with(world, self.letter(event_id, "x", resolved=False))
        assert broken == {8}
        assert [line.split(":")[0] for line in said] == [
            "batch " + str(world.one("asset_service", f"SELECT {A_BATCH}")),
            f"dead letter {event_id}",
        ]

    def test_one_that_was_repeated_after_its_aggregate_was_blocked_has_its_reason(self, world: World) -> None:
        letter = self.letter(OTHER_ID, self.an_event(world, "aggregate_id"), resolved=True)
        assert self.named_with(world, letter) == (set(), [])


def test_events_of_a_batch_that_was_taken_in_parts_are_known(world: World) -> None:
    event = world.one(
        "asset_service",
        "SELECT payload -> 0 ->> 'event_id' FROM outbox_events WHERE destination = 'processor' ORDER BY id LIMIT 1",
    )
    with world.broken(
        "processor",
        [f"INSERT INTO processed_events (consumer, event_id, state) VALUES ('processor', '{event}', 'DONE')"],
        [f"DELETE FROM processed_events WHERE event_id = '{event}'"],
    ):
        assert named(world) == (set(), [])
