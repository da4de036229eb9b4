"""E-mails over a real mail server: once where it works, the same message again where it does not, and an end to it."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from notifier.documents import NOTIFICATIONS
from notifier.relay import start
from notifier.sender import EmailSender, message_id
from notifier.service import Notifier
from notifier.settings import Settings
from shared.breaker import CircuitState
from shared.contracts.customers import CustomerRegistered, CustomerUpdated
from shared.contracts.orders import OrderCanceled, OrderConfirmed
from shared.faults import inject
from shared.mongo import MongoDatabase
from shared.testing.messages import create_customer_event, create_order_event, create_preferences_event

Found = Callable[[int], list[dict[str, Any]]]
_customers = itertools.count(500_000)


@pytest.fixture
def customer(database: MongoDatabase) -> int:
    """Somebody new, and nothing due from other tests."""
    database[NOTIFICATIONS].update_many(
        {"channels.email.status": "PENDING"}, {"$set": {"channels.email.status": "FAILED"}}
    )
    return next(_customers)


@pytest.fixture
def mailing(database: MongoDatabase, mail_settings: Settings) -> Notifier:
    return Notifier(database, mail_settings)


@pytest.fixture
def sender(database: MongoDatabase, mail_settings: Settings) -> EmailSender:
    return EmailSender(database, mail_settings)


@pytest.fixture
def email(mailing: Notifier, found: Found, customer: int) -> Callable[[], dict[str, Any]]:
    """One notification of the customer, and how its e-mail is now."""
    mailing.handle([create_customer_event(CustomerRegistered, customer), create_order_event(OrderConfirmed, customer)])
    return lambda: found(customer)[0]["channels"]["email"]


def send_until(sender: EmailSender, condition: Callable[[], bool], eventually: Any) -> None:
    """Rounds until it is so."""

    def step() -> bool:
        sender.send_due(threading.Event())
        return condition()

    eventually(step)


class TestSend:
    def test_a_due_e_mail_is_sent_once_and_recorded(
        self, sender: EmailSender, mailbox: Any, email: Any, found: Found, customer: int
    ) -> None:
        assert sender.send_due(threading.Event()) == 1
        assert sender.send_due(threading.Event()) == 0
        [message] = mailbox.received
        assert mailbox.recipients == [f"user{customer}@example.com"]
        assert message["Message-ID"] == message_id(found(customer)[0]["_id"], "no-reply@brokage.test")
        assert message["Subject"] == "Order confirmed"
        sent = email()
        assert (sent["status"], sent["recipient"], sent["retry_count"]) == ("SENT", f"user{customer}@example.com", 0)
        assert sent["sent_at"] is not None

    def test_many_go_over_one_connection(
        self, sender: EmailSender, mailing: Notifier, mailbox: Any, customer: int
    ) -> None:
        mailing.handle([create_customer_event(CustomerRegistered, customer)])
        mailing.handle([create_order_event(OrderConfirmed, customer) for _ in range(5)])
        assert sender.send_due(threading.Event()) == 5
        assert len({message["Message-ID"] for message in mailbox.received}) == 5

    def test_a_refused_message_is_sent_again_with_the_same_message_id(
        self, sender: EmailSender, mailbox: Any, email: Any, eventually: Any
    ) -> None:
        mailbox.answers = ["451 try later", "451 try later"]
        send_until(sender, lambda: email()["status"] == "SENT", eventually)
        assert mailbox.rejected_ids == [mailbox.received[0]["Message-ID"]] * 2
        assert (email()["retry_count"], email()["attempts"]) == (2, 3)

    def test_after_the_last_attempt_it_has_failed(
        self, sender: EmailSender, mailbox: Any, email: Any, eventually: Any
    ) -> None:
        mailbox.answers = ["451 try later"] * 10
        send_until(sender, lambda: email()["status"] == "FAILED", eventually)
        assert email()["attempts"] == 3
        assert email()["reason"] == "SMTPDataError (451)"
        sender.send_due(threading.Event())
        assert len(mailbox.rejected_ids) == 3

    def test_an_address_that_does_not_exist_fails_at_once(
        self, sender: EmailSender, mailbox: Any, email: Any, customer: int
    ) -> None:
        mailbox.refused_addresses[f"user{customer}@example.com"] = "550 no such user"
        sender.send_due(threading.Event())
        assert (email()["status"], email()["reason"], email()["attempts"]) == ("FAILED", "recipient refused (550)", 1)

    def test_a_mailbox_that_is_full_is_tried_again(
        self, sender: EmailSender, mailbox: Any, email: Any, customer: int, eventually: Any
    ) -> None:
        mailbox.refused_addresses[f"user{customer}@example.com"] = "452 full"
        sender.send_due(threading.Event())
        assert (email()["status"], email()["retry_count"]) == ("PENDING", 1)
        mailbox.refused_addresses.clear()
        send_until(sender, lambda: email()["status"] == "SENT", eventually)

    def test_while_the_mail_server_is_away_it_waits(
        self, sender: EmailSender, smtp: Any, email: Any, database: MongoDatabase, mail_settings: Settings
    ) -> None:
        away = EmailSender(database, mail_settings.model_copy(update={"smtp_url": "smtp://127.0.0.1:1"}))
        assert away.send_due(threading.Event()) == 0
        assert (email()["status"], email()["reason"]) == ("PENDING", "ConnectionRefusedError")

    def test_a_crash_after_sending_sends_the_same_message_again_and_no_other(
        self,
        sender: EmailSender,
        mailbox: Any,
        email: Any,
        database: MongoDatabase,
        mail_settings: Settings,
        eventually: Any,
    ) -> None:
        def crash(name: str) -> None:
            if name == "notifier.sent":
                raise KeyboardInterrupt

        leased = EmailSender(database, mail_settings.model_copy(update={"email_lease_seconds": 0.05}))
        with inject(crash), pytest.raises(KeyboardInterrupt):
            leased.send_due(threading.Event())
        assert email()["status"] == "PENDING"
        send_until(sender, lambda: email()["status"] == "SENT", eventually)
        assert len(mailbox.received) == 2
        assert len({message["Message-ID"] for message in mailbox.received}) == 1

    def test_two_senders_send_each_e_mail_once(
        self, mailing: Notifier, mailbox: Any, database: MongoDatabase, mail_settings: Settings, customer: int
    ) -> None:
        mailing.handle([create_customer_event(CustomerRegistered, customer)])
        mailing.handle([create_order_event(OrderConfirmed, customer) for _ in range(20)])
        senders = [EmailSender(database, mail_settings) for _ in range(4)]
        threads = [threading.Thread(target=sender.send_due, args=(threading.Event(),)) for sender in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ids = [message["Message-ID"] for message in mailbox.received]
        assert len(ids) == len(set(ids)) == 20


class TestCircuit:
    @pytest.mark.parametrize("trouble", ["hangs", "hangs up"])
    def test_opens_when_the_mail_server_fails_costs_no_attempts_while_open_and_closes_when_it_is_back(
        self,
        database: MongoDatabase,
        mail_settings: Settings,
        mailbox: Any,
        email: Any,
        eventually: Any,
        monkeypatch: pytest.MonkeyPatch,
        trouble: str,
    ) -> None:
        with BadMailServer(hangs=trouble == "hangs") as bad:
            changes = {
                "smtp_url": f"smtp://127.0.0.1:{bad.port}",
                "smtp_timeout_seconds": 0.1,
                "smtp_circuit_failures_max": 2,
                "email_pause_seconds": 0.001,
            }
            sender = EmailSender(database, mail_settings.model_copy(update=changes))
            circuit = sender._circuit
            send_until(sender, lambda: circuit.state is CircuitState.OPEN, eventually)
            reached = bad.connections
            assert [sender.send_due(threading.Event()) for _ in range(5)] == [0] * 5
            assert (bad.connections, email()["attempts"], email()["status"]) == (reached, 2, "PENDING")
        good = Controller(mailbox, hostname="127.0.0.1", port=bad.port)
        good.start()
        try:
            monkeypatch.setattr(circuit, "_trial_at", 0.0)  # the while is over
            send_until(sender, lambda: email()["status"] == "SENT", eventually)
        finally:
            good.stop()
        assert circuit.state is CircuitState.CLOSED


class BadMailServer:
    """Takes connections and says nothing, or hangs up at once."""

    def __init__(self, *, hangs: bool) -> None:
        self.connections = 0
        self._hangs = hangs
        self._held: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                if self._hangs:
                    self._held.append(connection)
                else:
                    connection.close()

    def __enter__(self) -> "BadMailServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._held:
            connection.close()


class TestChangesOfMind:
    def test_who_opts_out_before_it_is_sent_gets_none(
        self, sender: EmailSender, mailing: Notifier, mailbox: Any, email: Any, customer: int
    ) -> None:
        mailing.handle([create_preferences_event(customer, version=2, email_enabled=False)])
        sender.send_due(threading.Event())
        assert (email()["status"], email()["reason"]) == ("SKIPPED", "disabled-by-preference")
        assert mailbox.received == []

    def test_it_goes_to_the_address_of_now(
        self, sender: EmailSender, mailing: Notifier, mailbox: Any, email: Any, customer: int
    ) -> None:
        mailing.handle([create_customer_event(CustomerUpdated, customer, version=2, email="new@example.com")])
        sender.send_due(threading.Event())
        assert mailbox.recipients == ["new@example.com"]
        assert email()["recipient"] == "new@example.com"

    def test_an_address_that_arrives_later_is_used(
        self, sender: EmailSender, mailing: Notifier, mailbox: Any, found: Found, customer: int, eventually: Any
    ) -> None:
        mailing.handle([create_order_event(OrderCanceled, customer)])
        sender.send_due(threading.Event())
        waiting = found(customer)[0]["channels"]["email"]
        assert (waiting["status"], waiting["reason"]) == ("PENDING", "no-address")
        mailing.handle([create_customer_event(CustomerRegistered, customer)])
        send_until(sender, lambda: bool(mailbox.recipients), eventually)
        assert mailbox.recipients == [f"user{customer}@example.com"]


class TestRelay:
    def test_without_a_mail_server_there_is_nothing_to_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BROKAGE_SMTP_URL", raising=False)
        assert list(start()) == []

    def test_its_loop_sends_until_it_is_stopped(
        self, sender: EmailSender, mailbox: Any, email: Any, eventually: Any
    ) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=sender.run, args=(stop,))
        thread.start()
        eventually(lambda: email()["status"] == "SENT")
        stop.set()
        thread.join(5)
        assert not thread.is_alive()
