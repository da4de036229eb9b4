"""The bugs: how each gets into the product, the story that brings it out, and the invariant that must name it.

They are patched in here; the product has no switch for them. SQL is changed on its way to the server, by a fragment of its text.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from unittest import mock

import msgspec
import psycopg

import asset_service.fold
import asset_service.repository
import asset_service.repository.book
import asset_service.reservations
import asset_service.service.commands
import asset_service.service.transfers
import asset_service.settlement
import auditor.writer
import order_service.repository
import order_service.service.commands
import processor.repository
import processor.service.advance
import processor.service.matching
import shared.messaging.dead_letters
import shared.messaging.inbox
import shared.messaging.outbox
import shared.messaging.postgres_inbox
import shared.messaging.runtime
import shared.mongo.inbox
from asset_service.book import Answer, Book
from auditor.documents import LOGS
from auditor.writer import ChainWriter
from notifier.documents import NOTIFICATIONS
from processor.matching.queue_entry import QueueEntry
from processor.sagas.order_saga import ORDER_SAGA, OrderSagaState
from processor.sagas.transition import Transition
from processor.service.advance import SagaBatch
from processor.states import SagaType
from shared import money
from shared.contracts.message import decode_messages
from shared.contracts.trades import SettleTrade, TradeSettled, TradeSettlementFailed
from shared.db.engine import Database
from shared.messaging.delivery import Acknowledgement
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import Outbox, PostgresOutbox
from tests.faults.planted import scenarios
from tests.faults.planted.town import Died, Town

Plant = Callable[[Town], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Bug:
    """`invariant`: the number of one that `brokage reconcile` examines, or the name of a rule by which the fault run judges what
    callers asked and were answered. `says`: a part of what must be said."""

    name: str
    plant: Plant
    scenario: Callable[[Town], None]
    invariant: int | str
    says: str


# -- ways to plant -------------------------------------------------------------------------------------------------------


def around(target: object, name: str, bug: Callable[..., Any]) -> Plant:
    """`bug` is called in place of `target.name`, with the original as its first argument."""
    original = getattr(target, name)

    def buggy(*args: Any, **kwargs: Any) -> Any:
        return bug(original, *args, **kwargs)

    return lambda town: mock.patch.object(target, name, buggy)


def instead(target: object, name: str, value: Any) -> Plant:
    return lambda town: mock.patch.object(target, name, value)


def nothing(*args: Any, **kwargs: Any) -> None:
    pass


def row(state: OrderSagaState, message: str, transition: Transition[OrderSagaState]) -> Plant:
    """A wrong row in the table of an order's saga."""
    return lambda town: mock.patch.dict(ORDER_SAGA.rows, {(state, message): transition})


def statement(wrong: str, right: str) -> Plant:
    """Every SQL text that has `right` gets `wrong` instead."""
    original = psycopg.Connection.execute

    def execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, query.replace(right, wrong) if isinstance(query, str) else query, *args, **kwargs)

    return lambda town: mock.patch.object(psycopg.Connection, "execute", execute)


def both(*plants: Plant) -> Plant:
    @contextmanager
    def planted(town: Town) -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant(town))
            yield

    return planted


def without_constraint(service: str, table: str, name: str, definition: str) -> Plant:
    """So that the statement before it must be right by itself. It comes back after the test."""

    def planted(town: Town) -> AbstractContextManager[None]:
        town.sql(service, f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        # What the bug has left behind does not fit.
        back = f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID"
        town.mending.append(lambda: town.sql(service, back))
        return nullcontext()

    return planted


def without_index(store: str, collection: str, name: str) -> Plant:
    """A unique index of a document store. It comes back after the test."""

    def planted(town: Town) -> AbstractContextManager[None]:
        with town.documents(store) as documents:
            keys = documents[collection].index_information()[name]["key"]
            documents[collection].drop_index(name)
        town.mending.append(lambda: mend(town, keys))
        return nullcontext()

    def mend(town: Town, keys: Any) -> None:
        with town.documents(store) as documents:
            documents[collection].delete_many({})
            documents[collection].create_index(keys, name=name, unique=True)

    return planted


# -- the inbox, the outbox and the relay ---------------------------------------------------------------------------------


def _owns_all(original: Any, transaction: Any, ids: Sequence[str], *, single: bool) -> set[str]:
    original(transaction, ids, single=single)
    return set(ids)


def _acknowledges_first(original: Any, consumer: Any, delivery: Any) -> Any:
    try:
        return original(consumer, delivery)
    except Died:
        return [Acknowledgement(batch.id) for batch in delivery.batches]


def _done_before_the_effect(original: Any, inbox: Any, batches: Any) -> list[Acknowledgement]:
    owned = inbox._store.transaction(lambda tx: tx.claim([batch.id for batch in batches], single=False))
    messages = [m for batch in batches if batch.id in owned for m in decode_messages(bytes(batch.events))]
    inbox._store.transaction(lambda tx: tx.handle(messages))
    return [Acknowledgement(batch.id) for batch in batches]


def _first_half(original: Any, inbox: Any, raws: Sequence[Any], *, halves: bool) -> None:
    original(inbox, raws[: (len(raws) + 1) // 2], halves=halves)


def _newest_first(original: Any, outbox: Any, *args: Any) -> Any:
    return [replace(claim, batches=claim.batches[::-1]) for claim in original(outbox, *args)]


def _only_the_first(original: Any, handler: Any, unit: Any, event_id: str, texts: Sequence[str]) -> None:
    original(handler, unit, event_id, texts[:1])


def silent(destination: str, *types: str) -> Plant:
    """Messages of these types are not written for `destination`."""

    def add(original: Any, outbox: Any, readers: tuple[str, ...], message: Any) -> None:
        kept = tuple(each for each in readers if each != destination or message.type not in types)
        original(outbox, kept, message)

    return around(Outbox, "add", add)


MESSAGING = [
    Bug(
        "processed_events is written but not looked at",
        around(shared.messaging.postgres_inbox._Transaction, "claim", _owns_all),
        scenarios.everything_arrives_twice,
        8,
        "answered it 2 times",
    ),
    Bug(
        "processed_events is not written",
        around(
            shared.messaging.postgres_inbox._Transaction,
            "claim",
            lambda original, transaction, ids, *, single: set(ids),
        ),
        scenarios.a_trade,
        8,
        "acknowledged, but not processed",
    ),
    Bug(
        "acknowledged before the commit",
        around(shared.messaging.runtime.StoreConsumer, "receive", _acknowledges_first),
        scenarios.a_consumer_dies_before_it_commits,
        8,
        "processor has acknowledged, but not processed it",
    ),
    Bug(
        "marked as done before the effect",
        around(Inbox, "_whole", _done_before_the_effect),
        scenarios.a_consumer_dies_before_it_commits,
        7,
        "its saga NONE",
    ),
    Bug(
        "marked as delivered before it is published",
        statement("SET status = 'ACKED', acked_at = brokage_now()", "SET status = 'SENT'"),
        scenarios.the_broker_forgets,
        8,
        "processor has acknowledged, but not processed it",
    ),
    Bug(
        "what was sent once is not sent again",
        around(
            PostgresOutbox, "_decide", lambda original, *args: ([], []) if _outstanding(args[1]) else original(*args)
        ),
        scenarios.the_broker_forgets,
        8,
        "from order_service to processor",
    ),
    Bug(
        "the newest batch goes first",
        around(PostgresOutbox, "step", _newest_first),
        scenarios.a_cancel_behind_its_order,
        8,
        "OrderCancelRequested of order",
    ),
    Bug(
        "a batch in parts ends with its first half",
        around(Inbox, "_part", _first_half),
        scenarios.one_order_of_many_stumbles,
        7,
        "its saga NONE",
    ),
    Bug(
        "a poison event is dropped without a dead letter",
        instead(shared.messaging.postgres_inbox._Transaction, "_dead_letter", nothing),
        scenarios.a_poison_that_a_person_lets_go,
        7,
        "its saga NONE",
    ),
    Bug(
        "a requeue forgets who is held behind it",
        around(shared.messaging.dead_letters, "handle_again", _only_the_first),
        scenarios.a_poison_that_a_person_lets_go,
        7,
        "it is PENDING_CANCEL",
    ),
    Bug(
        "no outbox row for the next step",
        silent("processor", "OrderCancelRequested"),
        scenarios.a_cancel,
        7,
        "it is PENDING_CANCEL, its reservation ACTIVE, its saga RESTING",
    ),
    Bug(
        "no outbox row for the auditor",
        silent("auditor", "OrderConfirmed"),
        scenarios.a_trade,
        9,
        "becoming ORDER_CONFIRMED",
    ),
    Bug(
        "no outbox row for the notifier",
        silent("notifier", "OrderCanceled"),
        scenarios.a_cancel,
        9,
        "was told 0 times of OrderCanceled",
    ),
]


def _outstanding(lanes: Any) -> bool:
    return any(candidate.lease_until is not None for candidates in lanes.values() for candidate in candidates)


# -- assets --------------------------------------------------------------------------------------------------------------


def _released_again(original: Any, book: Book, order_id: str, customer_id: int, *args: Any) -> Answer:
    known = book.reservations.get(order_id)
    answer: Answer = original(book, order_id, customer_id, *args)
    if known is not None and answer.repeated and known.asset_name is not None:
        book.move(customer_id, known.asset_name, known.organization_id, usable=known.release_amount or Decimal(0))
    return answer


def _keeps_the_surplus(original: Any, *args: Any) -> Any:
    return original(*args)._replace(surplus=money.ZERO)


def _loses_the_surplus(
    original: Any, book: Book, *args: Any, size: Decimal = money.ZERO, usable: Decimal = money.ZERO
) -> Any:
    return original(book, *args, size=size, usable=money.ZERO if size < 0 else usable)


def _unspent(original: Any, book: Book, fill: Any) -> None:
    original(book, fill._replace(consumed=money.ZERO))


def _one_leg_less(original: Any, connection: Any, postings: Any, settlements: Any) -> None:
    original(connection, [each._replace(legs=each.legs[:-1]) for each in postings], settlements)


def _fees_go_elsewhere(original: Any, connection: Any, postings: Any, settlements: Any) -> None:
    def moved(leg: Any) -> Any:
        return leg._replace(account_id="rounding:TRY") if leg.account_id == "fee:TRY" else leg

    original(connection, [each._replace(legs=tuple(map(moved, each.legs))) for each in postings], settlements)


ASSETS = [
    Bug(
        "version missing from the WHERE of assets, and no lock",
        both(
            statement("WHERE a.id = v.id", "WHERE a.id = v.id AND a.version = v.version"),
            instead(asset_service.repository, "lock_partitions", nothing),
        ),
        scenarios.a_withdrawal_beside_a_reservation,
        3,
        "the ledger has 950, the asset 1000",
    ),
    Bug(
        "a withdrawal does not ask what is usable",
        both(
            statement("", "AND usable_size >= %(amount)s"),
            without_constraint(
                "asset_service", "assets", "ck_assets_usable_size", "CHECK (usable_size >= 0 AND usable_size <= size)"
            ),
        ),
        scenarios.a_withdrawal_of_what_is_blocked,
        1,
        "usable_size -",
    ),
    Bug(
        "released twice",
        around(asset_service.fold, "release", _released_again),
        scenarios.a_cancel_that_is_sent_again,
        2,
        "is blocked, but active reservations need",
    ),
    Bug(
        "the surplus stays reserved",
        around(asset_service.settlement, "buyer_fill", _keeps_the_surplus),
        scenarios.a_trade,
        5,
        "it needs",
    ),
    Bug(
        "the surplus is lost",
        around(Book, "move", _loses_the_surplus),
        scenarios.a_trade,
        2,
        "is blocked, but active reservations need",
    ),
    Bug(
        "the reservation is not consumed",
        around(asset_service.settlement, "_spend", _unspent),
        scenarios.a_trade,
        2,
        "is blocked, but active reservations need",
    ),
    Bug(
        "a leg of the ledger is dropped",
        around(asset_service.repository.book, "insert_postings", _one_leg_less),
        scenarios.a_trade,
        3,
        "transaction trade:",
    ),
    Bug(
        "a leg is booked to another account than was hashed",
        around(asset_service.repository.book, "insert_postings", _fees_go_elsewhere),
        scenarios.a_trade,
        4,
        "its legs are not those that were posted",
    ),
    Bug(
        "a transfer is not posted",
        instead(asset_service.repository, "insert_postings", nothing),
        scenarios.a_trade,
        3,
        "account customer:",
    ),
    Bug(
        "a transfer is not said",
        instead(asset_service.service.transfers, "_record", nothing),
        scenarios.a_trade,
        9,
        "0 audit records of FundsDeposited",
    ),
    Bug(
        "settled at another price than was traded",
        instead(
            processor.service.matching,
            "SettleTrade",
            lambda **terms: SettleTrade(**{**terms, "price": terms["price"] - 1}),
        ),
        scenarios.two_fills,
        6,
        "its legs in the ledger are not those of",
    ),
]


# -- orders --------------------------------------------------------------------------------------------------------------


def _history_without_its_end(original: Any, connection: Any, *, orders: Any, history: Any) -> Any:
    return original(connection, orders=orders, history=history[:-1])


def _adds_totals(original: Any, order: Any, message: Any) -> Any:
    detail = original(order, message)
    if detail and "filled_size" in detail:
        detail["filled_size"] += order["filled_size"]
    return detail


def _client_ids_are_not_kept(original: Any, connection: Any, *, orders: Any, client_ids: Any, keys: Any) -> Any:
    return original(connection, orders=orders, client_ids=[], keys=keys)


def _answers_before_the_commit(original: Any, database: Database, work: Any, context: Any) -> Any:
    answers: list[Any] = []

    def working(unit: Any) -> Any:
        answers.append(work(unit))
        return answers[0]

    try:
        return original(database, working, context)
    except Died:
        return answers[0]


ORDERS = [
    Bug(
        "a step of the history is not written",
        around(order_service.repository, "update_orders", _history_without_its_end),
        scenarios.a_cancel,
        7,
        "its history has",
    ),
    Bug(
        "a fill is counted twice",
        around(order_service.service.commands, "_detail", _adds_totals),
        scenarios.two_fills,
        6,
        "its filled_size is 8, its settled trades say 5",
    ),
    Bug(
        "answered before the commit",
        around(Database, "_run_once", _answers_before_the_commit),
        scenarios.a_caller_who_asks_again,
        "25 no acknowledgement lost",
        "was acknowledged to caller, but is gone",
    ),
    Bug(
        "a client id is not kept",
        around(order_service.repository, "insert_orders", _client_ids_are_not_kept),
        scenarios.a_caller_who_asks_again,
        "27 one answer",
        "place mine of caller",
    ),
    Bug(
        "an idempotency key is not kept",
        instead(processor.service.matching, "claim", nothing),
        scenarios.a_double_click,
        "27 one answer",
        "match ",
    ),
]


# -- sagas and the book --------------------------------------------------------------------------------------------------

S = OrderSagaState


def _settled_all_the_same(original: Any, batch: SagaBatch, message: Any) -> None:
    payload = message.payload
    if isinstance(payload, TradeSettlementFailed):
        terms = {name: getattr(payload, name) for name in payload.__struct_fields__ if name != "reason"}
        free = {"buyer_fee": money.ZERO, "seller_fee": money.ZERO}
        settled = TradeSettled(**terms, notional=payload.size * payload.price, **free)
        message = msgspec.structs.replace(message, payload=settled, type="TradeSettled")
    original(batch, message)


def _orders_only(original: Any, connection: Any, rows: Any) -> None:
    original(connection, [each for each in rows if each["saga_type"] == SagaType.ORDER])


def _twice_the_fee(original: Any, entry: QueueEntry, size: Decimal, notional: Decimal, fee: Decimal) -> None:
    original(entry, size, notional, 2 * fee)


SAGAS = [
    Bug(
        "version missing from the WHERE of sagas",
        statement("WHERE s.saga_id = row.saga_id", "WHERE s.saga_id = row.saga_id AND s.version = row.version"),
        scenarios.a_cancel_that_meets_the_reservation,
        7,
        "it is PENDING_CANCEL, its reservation RELEASED, its saga CONFIRMING",
    ),
    Bug(
        "version missing from the WHERE of the queue, and no lock",
        both(
            statement("WHERE q.id = row.id", "WHERE q.id = row.id AND q.version = row.version"),
            instead(processor.repository, "lock_books", nothing),
        ),
        scenarios.two_matches_at_once,
        6,
        "in the queue",
    ),
    Bug(
        "an answer is awaited without a deadline",
        instead(processor.service.advance, "awaits_answer", lambda state: False),
        scenarios.a_cancel_while_assets_are_away,
        7,
        "it is RELEASING: nobody waits for its answer",
    ),
    Bug(
        "what is overdue is not sent again",
        instead(processor.repository, "overdue_sagas", lambda *args, **kwargs: []),
        scenarios.an_answer_is_lost_for_good,
        7,
        "it is RESERVING: its answer is long overdue",
    ),
    Bug(
        "a refused settlement counts as settled",
        around(SagaBatch, "_trade_answered", _settled_all_the_same),
        scenarios.a_refused_settlement,
        6,
        "it is SETTLED, but the ledger knows nothing of it",
    ),
    Bug(
        "a trade has no saga",
        around(processor.repository, "insert_sagas", _orders_only),
        scenarios.two_fills,
        7,
        "its saga missing",
    ),
    Bug(
        "a fee is counted twice",
        around(QueueEntry, "settle", _twice_the_fee),
        scenarios.a_trade,
        6,
        "its fee_amount is",
    ),
    Bug(
        "canceled without a release",
        row(S.RESTING, "OrderCancelRequested", Transition(S.CANCELING, ("MarkOrderCanceled",))),
        scenarios.a_cancel,
        5,
        "it is CANCELED, but a reservation is active",
    ),
    Bug(
        "confirmed though the reservation was refused",
        row(S.RESERVING, "AssetReservationFailed", Transition(S.CONFIRMING, ("ConfirmOrder",))),
        scenarios.a_refusal,
        5,
        "it is ORDER_CONFIRMED with 0 active reservations",
    ),
    Bug(
        "released while a trade settles",
        row(S.RESTING, "CancelRequestedWhileSettling", Transition(S.RELEASING, ("ReleaseReservation",))),
        scenarios.a_cancel_while_a_trade_settles,
        8,
        "at processor: InvalidTransition",
    ),
    Bug(
        "an order that is being canceled stays on the book",
        instead(QueueEntry, "take_off", nothing),
        scenarios.a_cancel_while_assets_are_away,
        7,
        "it is on the book, its saga RELEASING",
    ),
    Bug(
        "a final order stays in the queue",
        instead(processor.repository, "leave_queue", nothing),
        scenarios.a_cancel,
        7,
        "it is still in the queue, its saga CANCELED",
    ),
]


# -- the trail and the notices -------------------------------------------------------------------------------------------


def _takes_no_lease(original: Any, chain: ChainWriter) -> Any:
    found = chain._read_end(auditor.writer.START)
    return found, True


def _changes_what_was_hashed(original: Any, head: Any, contents: Any) -> Any:
    records, end = original(head, contents)
    return [{**record, "role": "ADMIN"} for record in records], end


def _leaves_out(original: Any, chain: ChainWriter, contents: Any) -> None:
    original(chain, [content for content in contents if content["action"] != "AssetReserved"])


def _noted_before_told(original: Any, transaction: Any, messages: Any) -> None:
    transaction.write_done()
    transaction._done.clear()
    original(transaction, messages)


TELLING = [
    Bug(
        "two writers fork the chain",
        both(
            around(ChainWriter, "_acquire", _takes_no_lease),
            without_index("auditor", LOGS, "uq_audit_logs_seq"),
        ),
        scenarios.two_audit_writers,
        9,
        "the chain is broken here: inserted",
    ),
    Bug(
        "a record is not what was hashed",
        around(auditor.writer, "link", _changes_what_was_hashed),
        scenarios.a_trade,
        9,
        "the chain is broken here: changed",
    ),
    Bug(
        "an event is left out of the trail",
        around(ChainWriter, "append", _leaves_out),
        scenarios.a_trade,
        9,
        "0 audit records of AssetReserved",
    ),
    Bug(
        "notifications have no key",
        without_index("notifier", NOTIFICATIONS, "uq_notifications_event"),
        scenarios.a_teller_dies_before_he_notes_it,
        9,
        "was told 2 times of OrderCanceled",
    ),
    Bug(
        "noted as told before it is told",
        around(shared.mongo.inbox._Transaction, "handle", _noted_before_told),
        scenarios.a_teller_dies_before_he_tells,
        9,
        "was told 0 times of OrderCanceled",
    ),
]

BUGS = [*MESSAGING, *ASSETS, *ORDERS, *SAGAS, *TELLING]
