"""For whom a broker acts, cached in Valkey: the hash `broker:{id}:customers`, a field per service, for five minutes.

Only what a collection shows is asked here; whether a broker may act for a customer is read from the projection itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

from shared.contracts.customers import BrokerCustomerAssigned, BrokerCustomerUnassigned
from shared.contracts.message import Message
from shared.db import UnitOfWork
from shared.http.valkey import Script, Unavailable, Valkey

CACHED_SECONDS = 300
CHANGING_SECONDS = 15
"""For how long nothing is cached after a change was seen: longer than its transaction may last, so that nobody caches
what he read before its commit."""

Handler = Callable[[UnitOfWork, Sequence[Message[Any]]], None]


class BrokerCustomers:
    """One service's part of the cache. Without Valkey every question goes to the store."""

    def __init__(self, valkey: Valkey, service: str) -> None:
        self._valkey = valkey
        self._service = service

    def get(self, broker_id: int, load: Callable[[int], frozenset[int]]) -> frozenset[int]:
        try:
            cached = self._valkey.command("HGET", _key(broker_id), self._service)
        except Unavailable:
            return load(broker_id)
        if cached is not None:
            return frozenset(map(int, cached.split()))
        found = load(broker_id)
        text = " ".join(map(str, sorted(found)))
        try:
            self._valkey.run(_FILL, [_key(broker_id), _changing(broker_id)], [self._service, text, CACHED_SECONDS])
        except Unavailable:
            return found
        return found

    def forget(self, broker_id: int) -> None:
        """A change is about to be committed here."""
        try:
            self._valkey.run(_FORGET, [_key(broker_id), _changing(broker_id)], [CHANGING_SECONDS])
        except Unavailable:
            return


def forgetting(handle: Handler, cache: BrokerCustomers) -> Handler:
    """`handle`, which drops the cache of brokers whose customers change, before the change can be seen."""

    def wrapped(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
        changed = {
            message.payload.broker_id
            for message in messages
            if isinstance(message.payload, (BrokerCustomerAssigned, BrokerCustomerUnassigned))
        }
        for broker_id in sorted(changed):
            cache.forget(broker_id)
        handle(uow, messages)

    return wrapped


def _key(broker_id: int) -> str:
    return f"broker:{broker_id}:customers"


def _changing(broker_id: int) -> str:
    return f"broker:{broker_id}:changing"


_FILL = Script("""
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
""")

_FORGET = Script("""
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1])
return redis.call('DEL', KEYS[1])
""")
