"""One API process: any number of services behind one edge. `create_app([api, ...])` is what every entry point
serves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.auth.key_set import NoKeys, configured_key_set
from shared.auth.oidc import IssuerTerms, OidcVerifier, issuer_key_set
from shared.auth.principals import PrincipalDirectory
from shared.auth.tokens import TokenVerifier
from shared.errors import InvalidToken, MethodNotAllowed, NotFound
from shared.http.cors import CorsPolicy
from shared.http.docs import CONTENT_SECURITY_POLICY, render_docs
from shared.http.edge import Edge
from shared.http.hosts import AllowedHosts
from shared.http.limits import RateLimiter
from shared.http.matching import RouteTable
from shared.http.openapi import build_document
from shared.http.problems import problem_page
from shared.http.proxies import TrustedProxies
from shared.http.route import EdgeRoute
from shared.http.state import SCOPE_KEY, RequestState
from shared.http.telemetry import TelemetryBuffer
from shared.http.valkey import AsyncValkey
from shared.messaging import seal
from shared.settings import ServiceSettings

EXEMPT = frozenset({"/health/live", "/health/ready", "/metrics"})
_READY_SECONDS_MAX = 3.0
_STOP_SECONDS_MAX = 2.0
_THREADS = 80


class Resources(Protocol):
    """What a service has open while it serves: its database, its caches. Endpoints find it by `service_resources`."""

    @property
    def principals(self) -> PrincipalDirectory:
        """Who may act, as this service knows it."""

    def ready(self) -> str | None:
        """None when the service can do its work, else in a few words why not. May query; called in a thread."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServiceApi:
    """A service as an API process mounts it. `start` opens its resources; it runs in a thread, before the first
    request."""

    name: str
    router: APIRouter
    start: Callable[["EdgeSettings"], Resources]


class EdgeSettings(ServiceSettings):
    """Settings of an API process. Lists are separated by commas.

    `trusted_proxies`: addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    `allowed_hosts`: the names we may be called by; empty allows all. `cors_origins`: pages of which other origins may call.

    `oidc_issuer` replaces our own tokens by those of an external issuer for `oidc_audience`; its claim
    `oidc_customer_claim` names the customer by his `username` or `id`.
    """

    trusted_proxies: str = ""
    allowed_hosts: str = ""
    cors_origins: str = ""
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_customer_claim: str = "preferred_username"
    oidc_customer_by: Literal["username", "id"] = "username"

    @model_validator(mode="after")
    def _lists_are_readable(self) -> Self:
        self.edge_lists()
        return self

    def edge_lists(self) -> tuple[TrustedProxies, AllowedHosts, CorsPolicy]:
        return TrustedProxies(self.trusted_proxies), AllowedHosts(self.allowed_hosts), CorsPolicy(self.cors_origins)

    @model_validator(mode="after")
    def _issuer_is_whole(self) -> Self:
        if self.oidc_issuer is None:
            return self
        if not self.oidc_audience:
            raise ValueError("BROKAGE_OIDC_ISSUER needs BROKAGE_OIDC_AUDIENCE: tokens for others must not work here")
        address = urlsplit(self.oidc_issuer)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("BROKAGE_OIDC_ISSUER must be an https address")
        return self


class Application(FastAPI):
    """FastAPI for its routes and its document; the layers around them are ours, so that no default answer is left."""

    def __init__(self, edge: Callable[[ASGIApp], Edge], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not the framework's own: it looks for the settings of its telemetry, which is not ours, with every request.
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        return self._edge(_dispatch(self.router))

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = build_document(self)
        return self.openapi_schema


def create_app(apis: Sequence[ServiceApi], settings: EdgeSettings | None = None) -> FastAPI:
    """The ASGI application that serves `apis`; `app.state.services[name]` are their resources once it has started."""
    settings = settings or EdgeSettings()
    services: dict[str, Resources] = {}
    process = _Process(apis, settings, services)
    table: list[RouteTable] = []

    def edge(app: ASGIApp) -> Edge:
        proxies, hosts, cors = settings.edge_lists()
        return Edge(
            app,
            routes=table[0],
            services=services,
            verifier=_verifier(settings),
            limiter=lambda: process.limiter,
            telemetry=lambda: process.telemetry,
            exempt=EXEMPT,
            proxies=proxies,
            hosts=hosts,
            cors=cors,
        )

    app = Application(
        edge,
        title="Brokage",
        version="1",
        lifespan=process.lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    owned: list[tuple[str | None, APIRoute]] = []
    for api in apis:
        for route in api.router.routes:
            if not isinstance(route, APIRoute):
                raise TypeError(f"{api.name}: only API routes can be mounted")
            owned.append((api.name, route))
    owned += [(None, route) for route in _system_routes(app, services).routes if isinstance(route, APIRoute)]
    app.router.routes.extend(route for _, route in owned)
    table.append(RouteTable(owned))
    return app


class _Process:
    """What lives as long as the process serves."""

    def __init__(self, apis: Sequence[ServiceApi], settings: EdgeSettings, services: dict[str, Resources]) -> None:
        self._apis = apis
        self._settings = settings
        self._services = services
        self._valkey = AsyncValkey(settings.redis_url)
        self.limiter = RateLimiter(self._valkey)
        self.telemetry: TelemetryBuffer

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # Only now: an application that is made for its document alone needs no keys.
        self.telemetry = TelemetryBuffer(self._valkey, seal.load(self._settings))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._valkey.close)
            # Services share the threads: one whose store hangs must leave some to the others.
            current_default_thread_limiter().total_tokens = _THREADS
            for api in self._apis:
                resources = await run_in_threadpool(api.start, self._settings)
                self._services[api.name] = resources
                stack.push_async_callback(run_in_threadpool, resources.close)
            stop = asyncio.Event()
            flusher = asyncio.create_task(self.telemetry.run(stop))
            stack.push_async_callback(_ended, flusher, stop)
            yield
        self._services.clear()


async def _ended(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    stop.set()
    await asyncio.wait({task}, timeout=_STOP_SECONDS_MAX)
    task.cancel()


def _verifier(settings: EdgeSettings) -> TokenVerifier:
    if settings.oidc_issuer is not None and settings.oidc_audience is not None:
        terms = IssuerTerms(
            settings.oidc_issuer, settings.oidc_audience, settings.oidc_customer_claim, settings.oidc_customer_by
        )
        return OidcVerifier(terms, issuer_key_set(terms.issuer))
    if not (settings.jwks_url or settings.key_dir):
        raise NoKeys()
    return TokenVerifier(configured_key_set(settings.jwks_url, settings.key_dir))


def _dispatch(router: ASGIApp) -> ASGIApp:
    """To the route that the edge has found; the framework's own search, and its answers for what is not found, are
    not used."""
    by_framework = AsyncExitStackMiddleware(_by_framework)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await router(scope, receive, send)
            return
        state: RequestState = scope[SCOPE_KEY]
        route = state.matched.route
        if route is None:
            raise _no_route(state)
        scope["path_params"] = state.matched.path_params
        scope["endpoint"] = route.endpoint
        scope["route"] = route
        direct = route.direct if isinstance(route, EdgeRoute) else None
        await (direct or by_framework)(scope, receive, send)

    return dispatch


async def _by_framework(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["route"].handle(scope, receive, send)


def _no_route(state: RequestState) -> Exception:
    if not state.matched.allowed:
        return NotFound("There is no such path.")
    if not state.matched.public and state.principal is None:
        return state.refusal or InvalidToken()
    return MethodNotAllowed(headers={"Allow": ", ".join(state.matched.allowed)})


def _system_routes(app: FastAPI, services: dict[str, Resources]) -> APIRouter:
    """The paths of the process itself; the same whichever services it serves."""
    router = APIRouter(tags=["system"])
    running: dict[str, asyncio.Task[str | None]] = {}

    @router.get("/health/live", operation_id="get_live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/health/ready", operation_id="get_ready", summary="Whether every service here can work")
    async def ready() -> JSONResponse:
        names = list(services)
        reasons = await asyncio.gather(*(_readiness(name, services, running) for name in names))
        found = {name: reason or "ready" for name, reason in zip(names, reasons, strict=True)}
        good = bool(found) and not any(reasons)
        content = {"status": "ready" if good else "not ready", "services": found}
        return JSONResponse(content, 200 if good else 503, {} if good else {"Retry-After": "1"})

    @router.get("/metrics", operation_id="get_metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_docs(app.openapi()), headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    @router.get(
        "/problems/{code}", operation_id="get_problem", summary="What a problem means", response_class=HTMLResponse
    )
    async def problem(code: str) -> HTMLResponse:
        return HTMLResponse(problem_page(code))

    return router


async def _readiness(
    name: str, services: dict[str, Resources], running: dict[str, asyncio.Task[str | None]]
) -> str | None:
    """Why a service is not ready. One check of it at a time: a store that hangs must not take a thread for each poll."""
    task = running.get(name)
    if task is None or task.done():
        task = running[name] = asyncio.create_task(run_in_threadpool(services[name].ready))
    done, _ = await asyncio.wait({task}, timeout=_READY_SECONDS_MAX)
    if not done:
        return "does not answer"
    error = task.exception()
    return task.result() if error is None else type(error).__name__


def service_resources(request: Any, name: str) -> Any:
    """The resources that `ServiceApi.start` of the service `name` returned; for its `dependencies.py`."""
    return request.app.state.services[name]
