"""Exact amounts. The only module that rounds; everything else is exact or fails.

Amounts are `Decimal`, `NUMERIC(38,18)` in Postgres, strings in JSON. A context of 76 digits holds the product of any two
amounts, and traps what would be inexact, so a lost digit is an error and never a wrong balance.
"""

import decimal
from decimal import Decimal
from functools import cache, lru_cache

ZERO = Decimal(0)
NOTIONAL_LIMIT = Decimal(10) ** 18
"""A notional must stay below this, so that it fits `NUMERIC(38,18)` with 18 decimals."""

EXACT = decimal.Context(
    prec=76,
    rounding=decimal.ROUND_HALF_EVEN,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
_ROUNDING = decimal.Context(prec=76, traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow])


@lru_cache(maxsize=8_192)
def text(amount: Decimal) -> str:
    """Plain notation without exponent or trailing zeros: `1000`, `0.00000001`."""
    # Cached by value, which alone decides the text: a batch says the same few sizes, prices and zeros again and again.
    plain = format(amount, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


def multiply(size: Decimal, price: Decimal) -> Decimal:
    """The exact product of a size and a price, in the quote asset.

    Raises:
        decimal.Inexact: the product has more than 76 digits; amounts that passed the edge never do.
    """
    return EXACT.multiply(size, price)


def fits_scale(amount: Decimal, scale: int) -> bool:
    """Whether `amount` has at most `scale` decimals (trailing zeros do not count)."""
    return amount == _ROUNDING.quantize(amount, _unit(scale))


@cache
def _unit(scale: int) -> Decimal:
    """The least unit at a scale."""
    return Decimal(1).scaleb(-scale)


def fee(notional: Decimal, *, rate: Decimal, minimum: Decimal, scale: int) -> Decimal:
    """The fee of a cumulative notional: `rate * notional`, at least `minimum`, rounded up at the quote scale.

    Zero notional costs nothing. Source: contract, Fees.
    """
    if notional == ZERO or (rate == ZERO and minimum == ZERO):
        return ZERO
    raw = _ROUNDING.multiply(notional, rate)
    rounded = raw.quantize(_unit(scale), rounding=decimal.ROUND_UP, context=_ROUNDING)
    return max(rounded, minimum)


def average_price(filled_notional: Decimal, filled_size: Decimal, *, scale: int) -> Decimal | None:
    """`filled_notional / filled_size`, half-even at the quote scale; for people to read, never to reckon with."""
    if filled_size == ZERO:
        return None
    exact = _ROUNDING.divide(filled_notional, filled_size)
    return exact.quantize(_unit(scale), rounding=decimal.ROUND_HALF_EVEN, context=_ROUNDING)
