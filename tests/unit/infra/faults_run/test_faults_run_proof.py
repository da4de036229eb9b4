"""The proof finds nothing in what is right, and each thing that is planted, by its rule."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from infra.faults.facts import Facts
from infra.faults.history import Attempt, Outcome, Request
from infra.faults.proof import violations

BUYER, SELLER = 11, 12


def answered(number: int, kind: str, user_id: int, answer: Any, **more: Any) -> Request:
    request = Request(number, kind, f"user{user_id}", user_id, "POST", more.pop("path", "/"), keyed_by="body", **more)
    request.attempts = [Attempt(Outcome.OK, 201, answer=answer)]
    return request


def placed(number: int, user_id: int, id: str, side: str, price: str) -> Request:
    body = {"asset_name": "X", "order_side": side, "size": "10", "price": price, "client_order_id": f"c{number}"}
    return answered(number, "place", user_id, {"id": id}, body=body, key=f"c{number}")


def paid(number: int, customer_id: int, asset_name: str, amount: str) -> Request:
    body = {"customer_id": customer_id, "asset_name": asset_name, "amount": amount, "reference": f"r{number}"}
    return answered(number, "deposit", 1, {"id": f"transfer{number}"}, body=body, key=f"r{number}")


class World:
    """A buyer and a seller, paid in, whose orders were crossed at 5."""

    def __init__(self) -> None:
        self.requests = [
            paid(1, BUYER, "TRY", "1000"),
            paid(2, SELLER, "X", "100"),
            placed(3, BUYER, "buy", "BUY", "6"),
            placed(4, SELLER, "sell", "SELL", "5"),
            answered(5, "cross", 1, {"trades": [{"id": "trade"}]}, key="k"),
            answered(6, "mark_read", BUYER, None, path="/api/notifications/n1/read"),
        ]
        self.seen_final = {"buy": "MATCHED"}
        self.facts = Facts(
            orders={
                "buy": self._order(BUYER, "BUY", "6", "c3"),
                "sell": self._order(SELLER, "SELL", "5", "c4"),
            },
            transfers={
                "transfer1": self._transfer(BUYER, "TRY", "1000", "r1"),
                "transfer2": self._transfer(SELLER, "X", "100", "r2"),
            },
            trades={
                "trade": {
                    "status": "SETTLED",
                    "asset_name": "X",
                    "quote_asset": "TRY",
                    "buy_order_id": "buy",
                    "sell_order_id": "sell",
                    "buyer_id": BUYER,
                    "seller_id": SELLER,
                    "size": Decimal(10),
                    "price": Decimal(5),
                    "buyer_fee": Decimal(1),
                    "seller_fee": Decimal(2),
                }
            },
            balances={
                (BUYER, "TRY"): Decimal(949),
                (BUYER, "X"): Decimal(10),
                (SELLER, "TRY"): Decimal(48),
                (SELLER, "X"): Decimal(90),
            },
            external={"X": Decimal(-100)},
            told=Counter(
                {
                    (BUYER, "ORDER_CONFIRMED", "buy"): 1,
                    (BUYER, "ORDER_MATCHED", "buy"): 1,
                    (SELLER, "ORDER_CONFIRMED", "sell"): 1,
                    (SELLER, "ORDER_MATCHED", "sell"): 1,
                    (BUYER, "FUNDS_DEPOSITED", "transfer1"): 1,
                    (SELLER, "FUNDS_DEPOSITED", "transfer2"): 1,
                }
            ),
            read_notifications={"n1"},
            audited=Counter(
                {
                    ("OrderCreated", "buy", BUYER): 1,
                    ("OrderCreated", "sell", SELLER): 1,
                    ("FundsDeposited", "transfer1", 1): 1,
                    ("FundsDeposited", "transfer2", 1): 1,
                }
            ),
        )

    def _order(self, customer_id: int, side: str, price: str, client_order_id: str) -> dict[str, Any]:
        return {
            "customer_id": customer_id,
            "client_order_id": client_order_id,
            "asset_name": "X",
            "order_side": side,
            "size": Decimal(10),
            "price": Decimal(price),
            "filled_size": Decimal(10),
            "status": "MATCHED",
        }

    def _transfer(self, customer_id: int, asset_name: str, amount: str, reference: str) -> dict[str, Any]:
        return {
            "customer_id": customer_id,
            "kind": "DEPOSIT",
            "asset_name": asset_name,
            "amount": Decimal(amount),
            "reference": reference,
        }

    def rules(self) -> set[str]:
        return {each.rule for each in violations(self.requests, self.facts, self.seen_final)}

    def add_cancel(self) -> None:
        self.requests.append(answered(7, "cancel", BUYER, {"id": "buy"}))
        self.facts.orders["buy"]["status"] = "ORDER_CONFIRMED"

    def unknown(self) -> None:
        request = placed(8, BUYER, "never", "BUY", "6")
        request.attempts = [Attempt()]
        self.requests.append(request)

    def two_answers(self) -> None:
        self.requests[2].attempts.append(Attempt(Outcome.OK, 200, answer={"id": "sell"}))

    def refused_later(self) -> None:
        self.requests[2].attempts.append(Attempt(Outcome.REFUSED, 422))
        self.requests[2].resolved = Outcome.REFUSED

    def order_without_request(self) -> None:
        self.facts.orders["ghost"] = {**self.facts.orders["buy"], "filled_size": Decimal(0), "status": "CANCELED"}


PLANTED: list[tuple[str, Callable[[World], Any]]] = [
    ("25 no acknowledgement lost", lambda world: world.facts.orders.pop("buy")),
    ("25 no acknowledgement lost", lambda world: world.facts.transfers.pop("transfer1")),
    ("25 no acknowledgement lost", lambda world: world.facts.trades.pop("trade")),
    ("25 no acknowledgement lost", lambda world: world.facts.read_notifications.clear()),
    ("25 no acknowledgement lost", World.add_cancel),
    ("25 same content", lambda world: world.facts.orders["buy"].update(price=Decimal(7))),
    ("25 same content", lambda world: world.facts.transfers["transfer1"].update(amount=Decimal(999))),
    ("26 nothing without a request", World.order_without_request),
    (
        "26 nothing without a request",
        lambda world: world.facts.transfers.update(ghost=world.facts.transfers["transfer1"]),
    ),
    ("26 nothing without a request", lambda world: world.facts.trades.update(ghost=world.facts.trades["trade"])),
    ("27 unknown resolves", World.unknown),
    ("27 one answer", World.two_answers),
    ("27 one per key", World.two_answers),
    ("28 same again", World.refused_later),
    ("6 conservation", lambda world: world.facts.balances.update({(BUYER, "TRY"): Decimal(950)})),
    ("6 conservation", lambda world: world.facts.balances.update({(13, "TRY"): Decimal(1)})),
    ("6 conservation", lambda world: world.facts.external.update({"X": Decimal(-101)})),
    ("16 final is final", lambda world: world.seen_final.update(sell="CANCELED")),
    ("17 filled", lambda world: world.facts.orders["buy"].update(filled_size=Decimal(9))),
    ("18 settled", lambda world: world.facts.trades["trade"].update(status="SETTLING")),
    ("20 two sides", lambda world: world.facts.trades["trade"].update(seller_id=BUYER)),
    ("20 within the limit", lambda world: world.facts.trades["trade"].update(price=Decimal("6.01"))),
    ("47 audited once", lambda world: world.facts.audited.update({("OrderCreated", "buy", BUYER): 1})),
    ("47 audited once", lambda world: world.facts.audited.pop(("FundsDeposited", "transfer1", 1))),
    ("51 told once", lambda world: world.facts.told.update({(BUYER, "ORDER_MATCHED", "buy"): 1})),
    ("51 told once", lambda world: world.facts.told.pop((BUYER, "ORDER_CONFIRMED", "buy"))),
    ("51 told once", lambda world: world.facts.told.pop((SELLER, "FUNDS_DEPOSITED", "transfer2"))),
]


class TestProof:
    def test_what_is_right_has_no_violation(self) -> None:
        assert World().rules() == set()

    @pytest.mark.parametrize(("rule", "plant"), PLANTED, ids=[f"{n} {rule}" for n, (rule, _) in enumerate(PLANTED)])
    def test_what_is_planted_is_found(self, rule: str, plant: Callable[[World], Any]) -> None:
        world = World()
        plant(world)
        assert rule in world.rules()

    def test_a_cancel_that_came_too_late_is_none(self) -> None:
        world = World()
        world.requests.append(answered(7, "cancel", BUYER, {"id": "buy"}))
        assert world.rules() == set()
