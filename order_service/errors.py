"""What order_service refuses, named as facts."""

from shared.errors import BrokageError, Conflict, ServiceUnavailable


class ClientOrderIdReused(Conflict):
    """This `client_order_id` names another order of this customer and submitter already. Take a new one; nothing was
    stored."""

    code = "client-order-id-reused"
    title = "client_order_id reused"


class OrderAlreadyFinal(Conflict):
    """The order is matched or rejected; there is nothing left to cancel."""

    code = "order-already-final"
    title = "Order already final"


class CustomerInactive(BrokageError):
    """The customer's account is deactivated; no new orders are taken for it."""

    code = "customer-inactive"
    status = 403
    title = "Customer deactivated"


class TooManyOrders(ServiceUnavailable):
    """More orders are arriving than can be stored at the moment. This one was not accepted. Repeat it after
    `Retry-After` seconds, with the same key or `client_order_id`."""

    code = "too-many-orders"
    title = "Too many orders at once"


class UnknownOrder(Exception):
    """A command for an order that is not here: a bug or a forged message. Its event is parked."""


class InvalidFill(Exception):
    """A fill that contradicts the order's size: a bug of the sender. Its event is parked."""
