"""An endpoint that is called directly takes and refuses what the framework would."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from shared.http.direct import direct_handler
from shared.http.fields import AssetName, Body, PositiveDecimal
from shared.http.state import NO_BODY


class Wish(Body):
    asset_name: AssetName
    size: PositiveDecimal
    note: str | None = None


async def _path(request: Request) -> str:
    return str(request.scope["path"])


def _blocking(request: Request) -> str:
    return request.method


async def _of_a_dependency(path: Annotated[str, Depends(_path)]) -> str:
    return path


async def place(wish: Wish, path: Annotated[str, Depends(_path)]) -> Response:
    return Response(f"{path} {wish.asset_name} {wish.size}", 201)


async def without_body(path: Annotated[str, Depends(_path)]) -> Response:
    return Response(path)


async def answers_with_a_model(wish: Wish) -> Wish:
    return wish


def in_a_thread(wish: Wish) -> Response:
    return Response()


async def with_a_query(wish: Wish, limit: Annotated[int, Query()] = 1) -> Response:
    return Response()


async def with_a_blocking_dependency(method: Annotated[str, Depends(_blocking)]) -> Response:
    return Response()


async def with_a_dependency_of_its_own(path: Annotated[str, Depends(_of_a_dependency)]) -> Response:
    return Response()


async def with_two_bodies(wish: Wish, other: Wish) -> Response:
    return Response()


async def with_an_optional_body(path: Annotated[str, Depends(_path)], wish: Wish | None = None) -> Response:
    return Response()


def scope() -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/w", "query_string": b"", "headers": headers, "root_path": ""}


async def by_framework(endpoint: Any, body: bytes) -> tuple[int, Any]:
    app = FastAPI()
    app.router.add_api_route("/w", endpoint, methods=["POST"], response_model=None)
    found: list[Any] = []
    answered: list[Any] = []

    async def refused(_: Request, error: Any) -> Response:
        found.extend(error.errors())
        return Response(status_code=422)

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        answered.append(message)

    app.add_exception_handler(RequestValidationError, refused)
    await app(scope(), receive, send)
    return answered[0]["status"], found or answered[1]["body"]


async def directly(endpoint: Any, body: bytes) -> tuple[int, Any]:
    handle = direct_handler(APIRoute("/w", endpoint, methods=["POST"], response_model=None).dependant)
    assert handle is not None
    try:
        response = await handle(Request(scope()), json.loads(body) if body else NO_BODY)
    except RequestValidationError as error:
        return 422, list(error.errors())
    return response.status_code, response.body


@pytest.mark.parametrize("endpoint", [place, without_body])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"asset_name": "AAPL", "size": "1.50"}',
        b'{"asset_name": "aapl", "size": 1}',
        b'{"asset_name": "AAPL", "size": "0", "more": 1}',
        b'{"asset_name": "AAPL", "size": "1", "note": {"a": []}}',
    ],
)
def test_the_same_answers_and_errors(endpoint: Any, body: bytes) -> None:
    assert asyncio.run(directly(endpoint, body)) == asyncio.run(by_framework(endpoint, body))


@pytest.mark.parametrize(
    "endpoint",
    [
        answers_with_a_model,
        in_a_thread,
        with_a_query,
        with_a_blocking_dependency,
        with_a_dependency_of_its_own,
        with_two_bodies,
        with_an_optional_body,
    ],
)
def test_what_takes_more_is_left_to_the_framework(endpoint: Any) -> None:
    route = APIRoute("/w", endpoint, methods=["POST"], response_model=None)
    assert direct_handler(route.dependant) is None


def test_a_dependency_of_the_route_whose_value_nobody_takes_is_left_to_the_framework() -> None:
    route = APIRoute("/w", without_body, methods=["POST"], dependencies=[Depends(_path)])
    assert direct_handler(route.dependant) is None
