"""Peer (a): one dramatiq message and one transaction for each step, as its documentation shows it.

Run by dramatiq's own command line. A message is sent after its step's commit: a crash in between loses it, which ours never
does; an outbox would make this peer slower.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from benchmarks import steps
from benchmarks.models import ProcessedEvent, SagaInstance

BROKER_URL, DATABASE_URL = "PEER_BROKER_URL", "PEER_DATABASE_URL"
NAMESPACE = "dramatiq-peer"

broker = RedisBroker(url=os.environ[BROKER_URL], namespace=NAMESPACE)
dramatiq.set_broker(broker)
engine = create_engine(os.environ[DATABASE_URL], pool_size=8)


def _is_new(session: Session, step: str, event_id: str) -> bool:
    taken = insert(ProcessedEvent).values(step=step, event_id=event_id).on_conflict_do_nothing()
    return bool(session.execute(taken).rowcount)  # type: ignore[attr-defined]


def _note(session: Session, order_id: str, state: str) -> None:
    saga = session.get_one(SagaInstance, order_id, with_for_update=True)
    saga.current_state = state
    saga.version += 1


@dramatiq.actor(queue_name="assets")
def reserve(order_id: str) -> None:
    with Session(engine) as session, session.begin():
        if not _is_new(session, "reserve", order_id):
            return
        session.add(SagaInstance(saga_id=order_id, current_state="RESERVING"))
        reserved = steps.reserve(session, order_id)
    (confirm if reserved else reject).send(order_id)


@dramatiq.actor(queue_name="orders")
def confirm(order_id: str) -> None:
    with Session(engine) as session, session.begin():
        if not _is_new(session, "confirm", order_id):
            return
        steps.confirm(session, order_id)
    join_book.send(order_id)


@dramatiq.actor(queue_name="orders")
def reject(order_id: str) -> None:
    with Session(engine) as session, session.begin():
        if _is_new(session, "reject", order_id):
            steps.reject(session, order_id)
            _note(session, order_id, "REJECTED")


@dramatiq.actor(queue_name="processor")
def join_book(order_id: str) -> None:
    with Session(engine) as session, session.begin():
        if not _is_new(session, "join_book", order_id):
            return
        trade_id = steps.join_book(session, order_id)
        _note(session, order_id, "RESTING")
    if trade_id is not None:
        settle.send(trade_id)


@dramatiq.actor(queue_name="assets")
def settle(trade_id: str) -> None:
    with Session(engine) as session, session.begin():
        if not _is_new(session, "settle", trade_id):
            return
        orders = steps.settle(session, trade_id)
    for order_id in orders:
        mark_matched.send(order_id, trade_id)


@dramatiq.actor(queue_name="orders")
def mark_matched(order_id: str, trade_id: str) -> None:
    with Session(engine) as session, session.begin():
        if _is_new(session, f"mark {trade_id}", order_id):
            steps.mark_matched(session, order_id, trade_id)
            _note(session, order_id, "COMPLETED")
