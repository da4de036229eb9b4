"""What must become of random trading, reckoned in memory and without a look at the services' code. Source: contract.

Within a round commands are given one after the other, but nothing is moved; `end_round` is what must stand when everything was.
"""

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

ZERO = Decimal(0)
CASH_UNIT = Decimal("0.00000001")
OPEN = ("ORDER_CONFIRMED", "PARTIALLY_MATCHED")


@dataclass(frozen=True)
class Terms:
    """A customer's fees."""

    rate: Decimal
    minimum: Decimal

    def fee(self, notional: Decimal) -> Decimal:
        if not notional:
            return ZERO
        return max((notional * self.rate).quantize(CASH_UNIT, rounding=ROUND_CEILING), self.minimum)


@dataclass(frozen=True)
class Fill:
    size: Decimal
    price: Decimal


@dataclass
class Order:
    """`fills` are settled, `pending` were made in this round. `status` is of the end of the last round."""

    id: str
    customer: int
    side: str
    share: str
    size: Decimal
    price: Decimal
    terms: Terms
    status: str = "PENDING_RESERVATION"
    cancel_requested: bool = False
    time_over: bool = False
    fills: list[Fill] = field(default_factory=list)
    pending: list[Fill] = field(default_factory=list)

    @property
    def is_buy(self) -> bool:
        return self.side == "BUY"

    @property
    def filled(self) -> Decimal:
        return sum((fill.size for fill in self.fills), ZERO)

    @property
    def notional(self) -> Decimal:
        return sum((fill.size * fill.price for fill in self.fills), ZERO)

    @property
    def fee(self) -> Decimal:
        """A seller's comes out of the proceeds and never exceeds them."""
        due = self.terms.fee(self.notional)
        return due if self.is_buy else min(due, self.notional)

    @property
    def free(self) -> Decimal:
        """What can still be matched, wherever the order is."""
        return self.size - self.filled - sum((fill.size for fill in self.pending), ZERO)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def on_book(self) -> bool:
        return self.is_open and self.free > 0 and not self.time_over

    @property
    def blocks(self) -> Decimal:
        """How much of its asset it keeps from being used: what the open part may still cost."""
        rest = self.size - self.filled
        if not self.is_buy:
            return rest
        at_limit = rest * self.price
        return at_limit + self.terms.fee(self.notional + at_limit) - self.terms.fee(self.notional)

    def must_become(self, was_reserved: bool) -> str:
        """The status at the end of a round, fills of the round included."""
        if not was_reserved:
            return "REJECTED"
        if self.filled == self.size:
            return "MATCHED"
        if self.time_over:
            return "EXPIRED"
        if self.cancel_requested:
            return "CANCELED"
        return "PARTIALLY_MATCHED" if self.filled else "ORDER_CONFIRMED"


class Model:
    """Customers by number, each with terms; one cash and several shares."""

    def __init__(self, cash: str, terms: dict[int, Terms]) -> None:
        self.cash = cash
        self.terms = terms
        self.paid_in: dict[tuple[int, str], Decimal] = {}
        self.orders: dict[str, Order] = {}

    def blocked_asset(self, order: Order) -> str:
        return self.cash if order.is_buy else order.share

    def pay_in(self, customer: int, asset_name: str, amount: Decimal) -> None:
        self.paid_in[customer, asset_name] = self.paid_in.get((customer, asset_name), ZERO) + amount

    def size(self, customer: int, asset_name: str) -> Decimal:
        total = self.paid_in.get((customer, asset_name), ZERO)
        for order in self.orders.values():
            if order.customer == customer:
                sign = 1 if order.is_buy else -1
                if asset_name == order.share:
                    total += sign * order.filled
                if asset_name == self.cash:
                    total -= sign * order.notional + order.fee
        return total

    def usable(self, customer: int, asset_name: str) -> Decimal:
        blocked = (
            order.blocks
            for order in self.orders.values()
            if order.is_open and order.customer == customer and self.blocked_asset(order) == asset_name
        )
        return self.size(customer, asset_name) - sum(blocked, ZERO)

    def crossing(self, share: str) -> list[tuple[Order, Order]]:
        """Pairs that could still trade."""
        book = [order for order in self.orders.values() if order.share == share and order.on_book]
        return [
            (buy, sell)
            for buy in book
            for sell in book
            if buy.is_buy and not sell.is_buy and buy.price >= sell.price and buy.customer != sell.customer
        ]

    def end_round(self, statuses: dict[str, str]) -> None:
        """Take over which of the new orders were refused, if they had to be, and check the status of every order."""
        new = [order for order in self.orders.values() if order.status == "PENDING_RESERVATION"]
        self._check_refusals(new, statuses)
        for order in self.orders.values():
            order.fills += order.pending
            order.pending = []
            if order.is_open or order in new:
                order.status = order.must_become(statuses[order.id] != "REJECTED" or order not in new)
            assert statuses[order.id] == order.status, order
        for customer in self.terms:
            for asset_name in {self.cash, *(order.share for order in self.orders.values())}:
                assert ZERO <= self.usable(customer, asset_name) <= self.size(customer, asset_name)

    def _check_refusals(self, new: list[Order], statuses: dict[str, str]) -> None:
        """In which order the new ones were judged is not said; but a refused one must have been too large for what the accepted
        ones left."""
        for refused in new:
            if statuses[refused.id] != "REJECTED":
                continue
            asset_name = self.blocked_asset(refused)
            accepted = (
                order.blocks
                for order in new
                if statuses[order.id] != "REJECTED"
                and order.customer == refused.customer
                and self.blocked_asset(order) == asset_name
            )
            left = self.usable(refused.customer, asset_name) - sum(accepted, ZERO)
            assert refused.blocks > left, f"{refused} was refused, though {left} was usable"
