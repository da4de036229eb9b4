"""Refusals of the processor."""

from shared.errors import Conflict, ValidationFailed


class OrderNotOpen(Conflict):
    """The order is not on the book: it is not confirmed yet, full, canceled, or on its way to be."""

    code = "order-not-open"
    title = "Order not open"


class PricesDoNotCross(ValidationFailed):
    """The price is outside a limit: a buyer never pays more than his, a seller never gets less than his."""

    code = "prices-do-not-cross"
    title = "Prices do not cross"


class SelfTrade(ValidationFailed):
    """Both orders belong to the same owner."""

    code = "self-trade"
    title = "Self trade"


class SizeExceedsRemainder(ValidationFailed):
    """More than what is left of the order, or of one of the orders."""

    code = "size-exceeds-remainder"
    title = "Size exceeds remainder"


class SagaNotStuck(Conflict):
    """Only a saga in NEEDS_HUMAN can be retried; others go on by themselves."""

    code = "saga-not-stuck"
    title = "Saga not stuck"
