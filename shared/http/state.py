"""What the edge knows of the request in hand. It travels in the ASGI scope, so that no layer looks anything up
twice."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shared.errors import BrokageError

if TYPE_CHECKING:
    from fastapi.routing import APIRoute

    from shared.auth.principals import Principal
    from shared.auth.tokens import AccessToken

SCOPE_KEY = "brokage"
BODY_IS_HERE = "brokage.body_is_here"
"""Extension of the scope by a server that has read all of the body: nobody needs to watch the time for it."""
NO_BODY: Final[Any] = object()
"""The document of a request without one; `null` is one."""


@dataclass(slots=True)
class Matched:
    """Which route a request means. `allowed` is set instead of `route` when only the method is wrong."""

    template: str
    service: str | None = None
    route: "APIRoute | None" = None
    path_params: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    public: bool = True


@dataclass(slots=True)
class RequestState:
    """Filled by the edge before the route runs. `refusal` is why the caller is not known, raised only where he must
    be."""

    correlation_id: str
    traceparent: str
    address: str
    matched: Matched
    principal: "Principal | None" = None
    refusal: BrokageError | None = None
    token: "AccessToken | None" = None
    rate_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    idempotency_key: str | None = None
    body: bytes = b""
    document: Any = NO_BODY
