"""Small stories about a town. Each ends in perfect order unless a bug is planted: that is its control."""

from contextlib import suppress
from decimal import Decimal

from asset_service.errors import InsufficientFunds
from asset_service.service import commands as asset_commands
from auditor import writer
from auditor.records import content_from_event
from auditor.writer import ChainWriter
from notifier import documents as notices
from processor.service import matching
from processor.service.advance import SagaBatch
from shared.contracts.assets import AssetReleased, ReleaseReservation
from shared.idempotency import IdempotentCall, KeyScope
from shared.ids import new_id
from shared.testing.messages import create_message
from tests.faults.planted.town import UNDER_WAY, Died, Messengers, Town


def a_trade(town: Town) -> None:
    """Part of two orders, cheaper than the buyer's limit, with fees on both sides; the rest stays on the book."""
    buyer, seller = town.customer(TRY="10000"), town.customer(AAPL="100")
    sell, buy = town.order(seller, "SELL", "10", "19"), town.order(buyer, "BUY", "10", "20")
    town.cross(buy, sell, "4")


def two_fills(town: Town) -> None:
    order = town.order(town.customer(TRY="10000"), "BUY", "10", "20")
    town.match(order, "3")
    town.match(order, "2")


def a_cancel(town: Town) -> None:
    """Of an order that is partly filled, beside another of the same customer."""
    buyer = town.customer(TRY="10000")
    order = town.order(buyer, "BUY", "10", "20")
    town.order(buyer, "BUY", "5", "20")
    town.match(order, "3")
    town.cancel(order)


def a_cancel_that_is_sent_again(town: Town) -> None:
    """The release goes out a second time, as it does when its answer is late."""
    buyer = town.customer(TRY="10000")
    order = town.order(buyer, "BUY", "10", "20")
    town.order(buyer, "BUY", "20", "20")
    town.cancel(order)
    again = ReleaseReservation(reason="CANCELED")
    town.do("processor", lambda uow: uow.record(again, aggregate_id=order, aggregate_version=99, customer_id=buyer))
    town.pump.drain()


def a_refusal(town: Town) -> None:
    town.order(town.customer(TRY="10"), "BUY", "10", "20")


def a_refused_settlement(town: Town) -> None:
    order = town.order(town.customer(TRY="1000"), "BUY", "4", "12")
    change = f"UPDATE asset_reservations SET limit_price = {{}} WHERE holder_id = '{order}'"
    with town.broken("asset_service", [change.format(11)], [change.format(12)]):
        town.match(order, "1")


def a_withdrawal_of_what_is_blocked(town: Town) -> None:
    customer = town.customer(TRY="100")
    town.order(customer, "BUY", "5", "19")
    with suppress(InsufficientFunds):
        town.withdraw(customer, "TRY", "50")
    town.pump.drain()


def everything_arrives_twice(town: Town) -> None:
    town.messengers.twice = True
    a_trade(town)
    a_cancel(town)


def the_broker_forgets(town: Town) -> None:
    customer = town.customer(TRY="1000")
    town.messengers.forgets.add("processor")
    town.order(customer, "BUY", "1", "10")
    town.leases_run_out()


def a_consumer_dies_before_it_commits(town: Town) -> None:
    customer = town.customer(TRY="1000")
    with town.failing("sagas.written", Died()):
        town.order(customer, "BUY", "1", "10")
    town.leases_run_out()


def one_order_of_many_stumbles(town: Town) -> None:
    """Once; its batch is taken in parts."""
    customer = town.customer(TRY="1000")
    with town.failing("sagas.written", ValueError("once")):
        town.orders(customer, "BUY", "1", "10", number=8)


def a_poison_that_a_person_lets_go(town: Town) -> None:
    """An order and its cancel: the first is parked, the second held behind it; then what they stumbled over is mended."""
    customer = town.customer(TRY="1000")
    with town.failing("sagas.written", ValueError("always"), times=1000):
        town.cancel(town.order(customer, "BUY", "1", "10"))
    town.a_person_requeues()
    town.pump.drain()


def a_cancel_behind_its_order(town: Town) -> None:
    """In one message to the processor."""
    town.cancel(town.order(town.customer(TRY="1000"), "BUY", "1", "10", moved=False))


def a_cancel_while_assets_are_away(town: Town) -> None:
    order = town.order(town.customer(TRY="1000"), "BUY", "1", "10")
    town.messengers.away.add("asset_service")
    town.cancel(order)
    town.patience = UNDER_WAY


def a_cancel_while_a_trade_settles(town: Town) -> None:
    order = town.order(town.customer(TRY="1000"), "BUY", "10", "10")
    town.match_unmoved(order, "4")
    town.messengers.away.add("asset_service")
    town.cancel(order)
    town.messengers.away.clear()
    town.leases_run_out()


def a_cancel_that_meets_the_reservation(town: Town) -> None:
    """Two messages move one saga at the same moment."""
    order = town.order(town.customer(TRY="1000"), "BUY", "1", "10", moved=False)
    town.messengers.move_from("order_service")
    town.messengers.move_from("processor")
    town.cancel(order, moved=False)
    with (
        Messengers(town.environment, ("processor",)) as second,
        town.meanwhile(SagaBatch, "write", lambda: second.move_from("order_service")),
    ):
        town.messengers.move_from("asset_service")
    town.leases_run_out()


def two_matches_at_once(town: Town) -> None:
    order = town.order(town.customer(TRY="1000"), "BUY", "10", "10")
    with town.meanwhile(matching, "execute", lambda: town.match_unmoved(order, "4")):
        town.match_unmoved(order, "4")
    town.pump.drain()


def a_withdrawal_beside_a_reservation(town: Town) -> None:
    customer = town.customer(TRY="1000")
    with town.meanwhile(asset_commands, "fold", lambda: town.withdraw(customer, "TRY", "50")):
        town.order(customer, "BUY", "10", "10")


def an_answer_is_lost_for_good(town: Town) -> None:
    """As after a restore of one database: what the processor asked for never reached anybody, and its time is over."""
    town.order(town.customer(TRY="1000"), "BUY", "1", "10", moved=False)
    town.messengers.move_from("order_service")
    town.sql("processor", "DELETE FROM outbox_events WHERE destination = 'asset_service'")
    town.seconds_pass(300)
    town.expire_leases()
    town.resend_overdue()
    town.pump.drain()


def two_audit_writers(town: Town) -> None:
    with town.documents("auditor") as database:
        first, second = ChainWriter(database), ChainWriter(database)
        contents = [content_from_event(create_message(AssetReleased(asset_name="", amount=Decimal(0), reason="")))]
        others = [content_from_event(create_message(AssetReleased(asset_name="", amount=Decimal(0), reason="")))]
        with town.meanwhile(writer, "link", lambda: second.append(others)):
            first.append(contents)


def a_teller_dies_before_he_notes_it(town: Town) -> None:
    """His notifications are written; that they are is not written yet."""
    order = town.order(town.customer(TRY="1000"), "BUY", "1", "10")
    with town.dying(notices, "insert_notifications", after=True):
        town.cancel(order)
    town.leases_run_out()


def a_teller_dies_before_he_tells(town: Town) -> None:
    order = town.order(town.customer(TRY="1000"), "BUY", "1", "10")
    with town.dying(notices, "insert_notifications", after=False):
        town.cancel(order)
    town.leases_run_out()


def a_caller_who_asks_again(town: Town) -> None:
    """The server dies over his order, so he repeats it under the same client id until he is answered, and once more."""
    customer = town.caller("1000")
    with town.failing("unit_of_work.before_commit", Died()), suppress(Died):
        town.asked_order(customer, "mine", "1")
    town.asked_order(customer, "mine", "1")
    town.asked_order(customer, "mine", "1")
    town.pump.drain()


def a_double_click(town: Town) -> None:
    """An admin matches a part twice with one key."""
    order = town.asked_order(town.caller("1000"), "mine", "10")
    town.pump.drain()
    call = IdempotentCall(KeyScope("1", "POST", "/api/orders/{id}/match", new_id()), "the same body")
    town.asked_match(order, call)
    town.asked_match(order, call)
    town.pump.drain()
