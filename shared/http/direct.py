"""Calling an endpoint without the framework's general machinery, where its parameters allow it.

FastAPI resolves an endpoint's parameters anew for each request, whatever they are. Where they are only a body and
dependencies on the request, that is known when the route is made, and the call costs a fraction. The declarations, the
document and the errors stay FastAPI's.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Body

from shared.http.state import NO_BODY

Handler = Callable[[Request, Any], Awaitable[Response]]
"""Takes a request and the document of its body, `NO_BODY` where it has none."""
_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}


def direct_handler(dependant: Dependant) -> Handler | None:
    """How to call an endpoint directly; None where that takes the framework."""
    endpoint = dependant.call
    if endpoint is None or not _is_direct(dependant) or not all(map(_asks_the_request, dependant.dependencies)):
        return None
    dependencies = [(str(each.name), _asked(each)) for each in dependant.dependencies]
    body = next(iter(dependant.body_params), None)

    async def handle(request: Request, document: Any) -> Response:
        values = {name: await ask(request) for name, ask in dependencies}
        if body is not None:
            values[body.name] = _validated(body, document)
        response: Response = await endpoint(**values)
        return response

    return handle


def _is_direct(dependant: Dependant) -> bool:
    """A coroutine that makes its own response out of dependencies and at most one JSON body."""
    response = inspect.signature(dependant.call).return_annotation if dependant.call else None
    bodies = dependant.body_params
    return (
        inspect.iscoroutinefunction(dependant.call)
        and inspect.isclass(response)
        and issubclass(response, Response)
        and not _parameters_beside(dependant)
        and dependant.request_param_name is None
        and len(bodies) <= 1
        and all(map(_is_whole_body, bodies))
    )


def _is_whole_body(field: Any) -> bool:
    info = field.field_info
    return type(info) is Body and not info.embed and info.is_required()


def _asks_the_request(dependency: Dependant) -> bool:
    """A coroutine that takes the request and nothing else, and whose value is a parameter of the endpoint."""
    return (
        dependency.name is not None
        and inspect.iscoroutinefunction(dependency.call)
        and dependency.request_param_name is not None
        and not (_parameters_beside(dependency) or dependency.dependencies or dependency.body_params)
    )


def _parameters_beside(dependant: Dependant) -> bool:
    """Whether it takes more than dependencies, a body and the request."""
    return bool(
        dependant.path_params
        or dependant.query_params
        or dependant.header_params
        or dependant.cookie_params
        or dependant.http_connection_param_name
        or dependant.response_param_name
        or dependant.background_tasks_param_name
        or dependant.security_scopes_param_name
        or dependant.concurrency
    )


def _asked(dependency: Dependant) -> Callable[[Request], Awaitable[Any]]:
    call: Any = dependency.call
    name = dependency.request_param_name
    assert name is not None
    return lambda request: call(**{name: request})


def _validated(body: Any, document: Any) -> Any:
    if document is NO_BODY:
        raise RequestValidationError([_MISSING])
    value, errors = body.validate(document, loc=("body",))
    if errors:
        raise RequestValidationError(errors)
    return value
