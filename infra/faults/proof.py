"""The verdict: the clients' history against the stores. Each function yields what breaks one rule; all are pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from infra.faults.facts import Facts, Row
from infra.faults.history import Outcome, Request
from infra.faults.judge import FINAL, Violation

_SAME = {
    "place": ("asset_name", "order_side", "size", "price", "client_order_id"),
    "deposit": ("asset_name", "amount", "reference"),
    "withdraw": ("asset_name", "amount", "reference"),
}
_AMOUNTS = frozenset({"size", "price", "amount"})
_TRADING = ("match", "cross", "run")
_TOLD_AT_THE_END = {"MATCHED": "ORDER_MATCHED", "CANCELED": "ORDER_CANCELED", "REJECTED": "ORDER_REJECTED"}


def violations(requests: list[Request], facts: Facts, seen_final: dict[str, str]) -> Iterator[Violation]:
    """Everything that is wrong. `requests` must have been resolved: no keyed one is open any more."""
    yield from _one_answer_per_key(requests)
    yield from _orders(requests, facts)
    yield from _transfers(requests, facts)
    yield from _trades(requests, facts)
    yield from _cancels(requests, facts, seen_final)
    yield from _conservation(requests, facts)
    yield from _told(requests, facts)
    yield from _audited(requests, facts)


# -- keys ----------------------------------------------------------------------------------------------------------------


def identity(kind: str, answer: Any) -> str:
    """What an answer is about: the id of the thing, or those of the trades."""
    if not isinstance(answer, dict):
        return ""
    if kind in _TRADING:
        return ",".join(sorted(trade["id"] for trade in answer["trades"]))
    return str(answer.get("id", ""))


def _one_answer_per_key(requests: list[Request]) -> Iterator[Violation]:
    for request in requests:
        if request.keyed_by == "none":
            continue
        about = f"{request.kind} {request.key or request.path} of {request.user}"
        if request.outcome is Outcome.UNKNOWN:
            yield Violation("27 unknown resolves", f"{about}: nothing is known after {len(request.attempts)} attempts")
        ids = {identity(request.kind, answer) for answer in request.answers}
        if len(ids) > 1:
            yield Violation("27 one answer", f"{about}: {' and '.join(sorted(ids))}")
        if request.answers and request.resolved is Outcome.REFUSED and request.kind != "cancel":
            yield Violation("28 same again", f"{about}: it was acknowledged, and its repeat refused")


# -- what was acknowledged is there, and nothing else ------------------------------------------------------------------------


def _acknowledged(requests: list[Request], *kinds: str) -> dict[str, list[Request]]:
    """The requests by the id they were answered with."""
    found: dict[str, list[Request]] = {}
    for request in requests:
        if request.kind in kinds and request.outcome is Outcome.OK:
            for id in {identity(request.kind, answer) for answer in request.answers}:
                found.setdefault(id, []).append(request)
    return found


def _differs(request: Request, row: Row) -> str | None:
    for name in _SAME[request.kind]:
        asked = (request.body or {}).get(name)
        stored = row[name]
        if (Decimal(asked) != stored) if name in _AMOUNTS and asked is not None else asked != stored:
            return f"{name} is {stored}, asked for was {asked}"
    return None


def _things(requests: list[Request], rows: dict[str, Row], what: str, *kinds: str) -> Iterator[Violation]:
    acknowledged = _acknowledged(requests, *kinds)
    for id, askers in acknowledged.items():
        if id not in rows:
            yield Violation(
                "25 no acknowledgement lost", f"{what} {id} was acknowledged to {askers[0].user}, but is gone"
            )
            continue
        if len(askers) > 1:
            yield Violation("27 one per key", f"{what} {id} is the answer to {len(askers)} requests")
        if reason := _differs(askers[0], rows[id]):
            yield Violation("25 same content", f"{what} {id}: {reason}")
    for id in rows.keys() - acknowledged.keys():
        yield Violation("26 nothing without a request", f"{what} {id} is there, but nobody asked for it")


def _orders(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    yield from _things(requests, facts.orders, "order", "place")


def _transfers(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    yield from _things(requests, facts.transfers, "transfer", "deposit", "withdraw")


def _trades(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    asked: set[str] = set()
    for ids in _acknowledged(requests, *_TRADING):
        asked |= {id for id in ids.split(",") if id}
    for id in asked - facts.trades.keys():
        yield Violation("25 no acknowledgement lost", f"trade {id} was acknowledged, but is gone")
    for id in facts.trades.keys() - asked:
        yield Violation("26 nothing without a request", f"trade {id} is there, but nobody asked for it")
    filled: dict[str, Decimal] = {}
    for id, trade in facts.trades.items():
        yield from _one_trade(id, trade, facts, filled)
    for id, order in facts.orders.items():
        if order["filled_size"] != filled.get(id, Decimal(0)):
            yield Violation(
                "17 filled", f"order {id}: filled {order['filled_size']}, its trades say {filled.get(id, Decimal(0))}"
            )
        if (order["status"] == "MATCHED") != (order["filled_size"] == order["size"]):
            yield Violation(
                "17 filled", f"order {id} is {order['status']}, filled {order['filled_size']} of {order['size']}"
            )


def _one_trade(id: str, trade: Row, facts: Facts, filled: dict[str, Decimal]) -> Iterator[Violation]:
    if trade["status"] not in ("SETTLED", "BUSTED"):
        yield Violation("18 settled", f"trade {id} is still {trade['status']}")
    if trade["buyer_id"] is not None and trade["buyer_id"] == trade["seller_id"]:
        yield Violation("20 two sides", f"trade {id}: customer {trade['buyer_id']} with himself")
    for side, sign in (("buy", 1), ("sell", -1)):
        order_id = trade[f"{side}_order_id"]
        if order_id is None:
            continue
        order = facts.orders.get(order_id)
        if order is None:
            yield Violation("20 two sides", f"trade {id} is of order {order_id}, which is not there")
            continue
        if sign * trade["price"] > sign * order["price"]:
            yield Violation(
                "20 within the limit", f"trade {id} at {trade['price']}, order {order_id} at {order['price']}"
            )
        if trade["status"] == "SETTLED":
            filled[order_id] = filled.get(order_id, Decimal(0)) + trade["size"]


def _cancels(requests: list[Request], facts: Facts, seen_final: dict[str, str]) -> Iterator[Violation]:
    for order_id in _acknowledged(requests, "cancel"):
        status = facts.orders.get(order_id, {}).get("status")
        if status not in FINAL:
            yield Violation("25 no acknowledgement lost", f"order {order_id} was to be canceled, but is {status}")
    for order_id, status in seen_final.items():
        now = facts.orders.get(order_id, {}).get("status", "gone")
        if now != status and status != "ARCHIVED":
            yield Violation("16 final is final", f"order {order_id} was seen {status}, is {now}")
    for request in requests:
        if request.kind == "mark_read" and request.outcome is Outcome.OK:
            id = request.path.split("/")[-2]
            if id not in facts.read_notifications:
                yield Violation("25 no acknowledgement lost", f"notification {id} was marked read, but is not")


# -- money ---------------------------------------------------------------------------------------------------------------


def _conservation(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    """Balances from the run's own record of what was paid in and out, and from the trades of the orders it placed."""
    expected: dict[tuple[int, str], Decimal] = {}
    paid: dict[str, Decimal] = {}

    def move(customer_id: int | None, asset_name: str, amount: Decimal) -> None:
        if customer_id is not None:
            expected[(customer_id, asset_name)] = expected.get((customer_id, asset_name), Decimal(0)) + amount

    for request in requests:
        if request.kind in ("deposit", "withdraw") and request.outcome is Outcome.OK:
            body = request.body or {}
            amount = Decimal(body["amount"]) * (1 if request.kind == "deposit" else -1)
            move(int(body.get("customer_id", request.user_id)), body["asset_name"], amount)
            paid[body["asset_name"]] = paid.get(body["asset_name"], Decimal(0)) + amount
    for trade in facts.trades.values():
        if trade["status"] == "SETTLED":
            notional = trade["size"] * trade["price"]
            move(trade["buyer_id"], trade["quote_asset"], -notional - trade["buyer_fee"])
            move(trade["seller_id"], trade["quote_asset"], notional - trade["seller_fee"])
            move(trade["buyer_id"], trade["asset_name"], trade["size"])
            move(trade["seller_id"], trade["asset_name"], -trade["size"])
    for (customer_id, asset_name), size in sorted(expected.items()):
        has = facts.balances.get((customer_id, asset_name), Decimal(0))
        if has != size:
            yield Violation("6 conservation", f"customer {customer_id} has {has} {asset_name}, explained are {size}")
    for customer_id, asset_name in facts.balances.keys() - expected.keys():
        if facts.balances[(customer_id, asset_name)]:
            yield Violation("6 conservation", f"customer {customer_id} has {asset_name}, which nobody gave him")
    for asset_name, amount in facts.external.items():
        if -amount != paid.get(asset_name, Decimal(0)):
            yield Violation(
                "6 conservation", f"{-amount} {asset_name} came in, paid in were {paid.get(asset_name, Decimal(0))}"
            )


# -- told and audited, once ----------------------------------------------------------------------------------------------


def _told(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    for id, order in facts.orders.items():
        customer_id, status = order["customer_id"], order["status"]
        ends = {type: facts.told[(customer_id, type, id)] for type in _TOLD_AT_THE_END.values()}
        wanted = {type: int(_TOLD_AT_THE_END.get(status) == type) for type in ends}
        if ends != wanted:
            yield Violation("51 told once", f"customer {customer_id} of order {id}, {status}: {ends}")
        confirmed = facts.told[(customer_id, "ORDER_CONFIRMED", id)]
        if confirmed > 1 or (confirmed == 0 and status in ("ORDER_CONFIRMED", "PARTIALLY_MATCHED", "MATCHED")):
            yield Violation(
                "51 told once", f"customer {customer_id} of order {id}, {status}: confirmed {confirmed} times"
            )
    for id, transfer in facts.transfers.items():
        type = "FUNDS_DEPOSITED" if transfer["kind"] == "DEPOSIT" else "FUNDS_WITHDRAWN"
        times = facts.told[(transfer["customer_id"], type, id)]
        if times != 1:
            yield Violation("51 told once", f"customer {transfer['customer_id']} of transfer {id}: {times} times")


def _audited(requests: list[Request], facts: Facts) -> Iterator[Violation]:
    recorded: Counter[tuple[str, str]] = Counter()
    for (action, id, _), times in facts.audited.items():
        recorded[(action, id)] += times
    for kinds, actions in ((("place",), {"place": "OrderCreated"}), (("deposit", "withdraw"), _TRANSFER_ACTIONS)):
        for id, askers in _acknowledged(requests, *kinds).items():
            request = askers[0]
            action = actions[request.kind]
            if recorded[(action, id)] != 1:
                yield Violation("47 audited once", f"{action} of {id}: {recorded[(action, id)]} records")
            elif not facts.audited[(action, id, request.user_id)] and request.user_id:
                yield Violation("47 audited once", f"{action} of {id} is not recorded as done by {request.user}")


_TRANSFER_ACTIONS = {"deposit": "FundsDeposited", "withdraw": "FundsWithdrawn"}
