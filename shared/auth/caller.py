"""The caller of a request, and whose things he may touch. What endpoints take is `Caller` in `shared/http/caller.py`."""

from dataclasses import dataclass
from typing import Literal

from shared.auth.permissions import Role, Scope
from shared.auth.principals import Principal, PrincipalDirectory
from shared.contracts.message import Actor
from shared.db import Context
from shared.errors import BrokageError, FieldError, NotFound, ValidationFailed

Where = Literal["path", "query", "body"]


@dataclass(frozen=True, slots=True)
class CallerContext:
    """An authenticated and authorised caller. `scope` is what the table of permissions gave his role for this
    operation."""

    principal: Principal
    scope: Scope
    directory: PrincipalDirectory
    correlation_id: str

    @property
    def customer_id(self) -> int:
        return self.principal.customer_id

    @property
    def role(self) -> Role:
        return self.principal.role

    def context(self, on_behalf_of: int | None = None) -> Context:
        """Who acts, for a unit of work. `on_behalf_of` names the customer when it is not the caller himself."""
        customer = None if on_behalf_of == self.customer_id else on_behalf_of
        return Context(
            actor=Actor(self.customer_id, self.role.value, customer),
            correlation_id=self.correlation_id,
            organization_id=self.principal.organization_id,
        )

    def may_see(self, customer_id: int) -> bool:
        """Whether a thing of `customer_id` is his to see or to act upon. Never waits; for things already read from a
        store."""
        if self.scope is Scope.ANY or customer_id == self.customer_id:
            return True
        if self.scope is Scope.OWN:
            return False
        owner = self.directory.get(customer_id)
        return owner is not None and self.customer_id in owner.brokers

    def visible_customers(self, customer_id: int | None = None) -> list[int] | None:
        """Whose things a collection shows: only of the customer that the query names; else of everybody (None), of the
        caller and those assigned to him, or of the caller alone.

        Raises:
            NotFound: the query names one who is not the caller's.
        """
        if customer_id is not None:
            return [self.require_customer(customer_id, "query").customer_id]
        if self.scope is Scope.ANY:
            return None
        if self.scope is Scope.ASSIGNED:
            return sorted({self.customer_id, *self.directory.assigned_to(self.customer_id)})
        return [self.customer_id]

    def require_customer(self, customer_id: int, where: Where = "body") -> Principal:
        """The customer that a request names, if the caller may act for him. May wait up to 2 s; not for the event loop.

        Raises:
            NotFound: named in the path or query, and unknown or not the caller's.
            ValidationFailed: the same, named in the body (`/customer_id`).
        """
        if customer_id == self.customer_id:
            return self.principal
        if self.scope is Scope.OWN:
            raise _unknown_customer(where)
        if self.scope is Scope.ANY:
            # Only an admin (or auditor) names customers who may still be on their way here; others would learn by
            # the delay who exists.
            customer = self.directory.wait_for(customer_id)
        else:
            customer = self.directory.get(customer_id)
            if customer is not None and self.customer_id not in customer.brokers:
                customer = None
        if customer is None:
            raise _unknown_customer(where)
        return customer

    async def require_customer_async(self, customer_id: int, where: Where = "body") -> Principal:
        """`require_customer` for endpoints on the event loop: answered from the cache where possible."""
        if customer_id == self.customer_id:
            return self.principal
        cached = self.directory.peek(customer_id)
        if (
            cached is not None
            and self.scope is not Scope.OWN
            and (self.scope is Scope.ANY or self.customer_id in cached.brokers)
        ):
            return cached
        from fastapi.concurrency import run_in_threadpool  # here, because workers know callers and serve none

        return await run_in_threadpool(self.require_customer, customer_id, where)


def _unknown_customer(where: Where) -> BrokageError:
    if where == "body":
        return ValidationFailed(errors=[FieldError("/customer_id", "There is no such customer.")])
    return NotFound()
