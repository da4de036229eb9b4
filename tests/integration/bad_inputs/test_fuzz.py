"""Requests made from the OpenAPI document, as it wants them and as it does not, by everybody who may call and by nobody.

`FUZZ_EXAMPLES` are the requests of each kind (operation, caller, good or bad); `FUZZ_SEED` chooses others.
"""

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.auth.permissions import PERMISSIONS, Role
from tests.integration.bad_inputs.conftest import Judge
from tests.integration.world import World

BRIEF = 2
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", BRIEF))
SEED = int(os.environ.get("FUZZ_SEED", "20261121"))
CALLERS = (None, *(role.value.lower() for role in Role))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Read from the request as such: without them it is not the request it was made to be.
_OPTIONS = frozenset({"method", "url", "headers", "params", "data", "json", "cookies"})


def _with_real_values(document: dict[str, Any], world: World) -> dict[str, Any]:
    """The document whose parameters and fields are, every other time, what exists: else nearly all is 404."""
    document = copy.deepcopy(document)
    document["components"].pop("securitySchemes")  # the token is ours to choose
    things = [thing for held in world.things.values() for thing in held.values()]
    known = {
        "customer_id": sorted(world.people.values()),
        "broker_id": [world.people["broker"], world.people["other_broker"]],
        "asset_name": ["AAPL", "TRY", "THYAO"],
        **dict.fromkeys(("order_id", "saga_id", "notification_id", "buy_order_id", "sell_order_id"), things),
    }
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in known:
                    parameter["schema"] = {"anyOf": [{"enum": known[parameter["name"]]}, parameter["schema"]]}
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Create", "Write", "Change", "Update")):
            for field, values in known.items():
                if field in schema.get("properties", {}):
                    schema["properties"][field] = {"anyOf": [{"enum": values}, schema["properties"][field]]}
    return document


def _operations() -> Iterator[Any]:
    for operation in PERMISSIONS:
        for caller in CALLERS:
            yield pytest.param(operation, caller, id=f"{operation}-{caller or 'nobody'}")


@pytest.fixture(scope="module")
def schemas(mistreated: World) -> dict[str, list[Any]]:
    """The document's operations by their row of the table of permissions."""
    document = mistreated.client.get("/openapi.json").json()
    found: dict[str, list[Any]] = {}
    for result in schemathesis.openapi.from_dict(_with_real_values(document, mistreated)).get_all_operations():
        operation = result.ok()
        found.setdefault(operation.definition.raw["operationId"].partition("__")[0], []).append(operation)
    return found


@pytest.mark.parametrize(("name", "caller"), list(_operations()))
def test_an_operation(name: str, caller: str | None, schemas: dict[str, list[Any]], judge: Judge) -> None:
    stored = judge.rows(name)
    headers = judge.world.credentials(caller)

    def send(case: Any) -> None:
        nonlocal stored
        options = case.as_transport_kwargs(base_url="http://testserver")
        prepared = requests.Request(**{name: value for name, value in options.items() if name in _OPTIONS}).prepare()
        sent = {key: value for key, value in prepared.headers.items() if key.lower() != "cookie"}
        answer = judge.world.client.request(
            prepared.method, prepared.url, headers={**sent, **headers}, content=prepared.body
        )
        judge.check(answer, operation=name, before=stored)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code < 400:
            stored = judge.rows(name)

    operations = schemas[name]
    if EXAMPLES <= BRIEF:
        # Every service has the same code for dead letters: each caller gets another one's.
        operations = [operations[CALLERS.index(caller) % len(operations)]]
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _generate(operation, mode, send)


def _generate(operation: Any, mode: GenerationMode, send: Any) -> None:
    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        send(case)

    # What takes nothing cannot be asked wrongly.
    with contextlib.suppress(Unsatisfiable):
        run()


def test_every_kind_of_answer_was_among_them(judge: Judge) -> None:
    """What is not reached is not tested."""
    print(f"\n{sum(judge.seen.values())} requests, answers by status: {dict(sorted(judge.seen.items()))}")
    assert {200, 400, 401, 403, 404, 422} <= judge.seen.keys()
    assert {201, 202, 204} & judge.seen.keys()
    assert not any(status >= 500 for status in judge.seen)
