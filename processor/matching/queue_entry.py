"""An order's row in `matching_queue`, while a transaction decides about it."""

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any


@dataclass(slots=True)
class QueueEntry:
    """`remaining_size` is free to match, `in_settlement_size` is matched but not settled, `filled_size` is settled; their sum is
    the order's size. Amounts in the quote asset are over all settled fills."""

    id: str
    version: int
    customer_id: int
    size: Decimal
    remaining_size: Decimal
    in_settlement_size: Decimal
    filled_size: Decimal
    filled_notional: Decimal
    fee_amount: Decimal
    bust_count: int
    on_book: bool
    changed: bool = False

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "QueueEntry":
        return cls(*(row[name] for name in ENTRY_COLUMNS))

    def take(self, size: Decimal) -> None:
        """Match `size`; a full order leaves the book."""
        self.remaining_size -= size
        self.in_settlement_size += size
        self.on_book = self.on_book and self.remaining_size > 0
        self.changed = True

    def settle(self, size: Decimal, notional: Decimal, fee: Decimal) -> None:
        self.in_settlement_size -= size
        self.filled_size += size
        self.filled_notional += notional
        self.fee_amount += fee
        self.changed = True

    def bust(self, size: Decimal) -> None:
        self.in_settlement_size -= size
        self.remaining_size += size
        self.bust_count += 1
        self.changed = True

    def put_back(self) -> None:
        self.on_book = self.remaining_size > 0
        self.changed = True

    def take_off(self) -> None:
        self.on_book = False
        self.changed = True

    def totals(self) -> dict[str, Decimal]:
        return {
            "filled_size": self.filled_size,
            "filled_notional": self.filled_notional,
            "fee_amount": self.fee_amount,
        }


ENTRY_COLUMNS = tuple(each.name for each in fields(QueueEntry) if each.name != "changed")
"""What is read of a row, in the order of the fields."""
