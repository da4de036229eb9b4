"""The merged document of all services."""

import importlib
from typing import Any

import pytest

from shared.app import create_app
from shared.auth.permissions import PERMISSIONS, PUBLIC

SERVICES = ("customer_service", "order_service", "asset_service", "processor", "notifier", "auditor")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app([importlib.import_module(f"{service}.app").api for service in SERVICES]).openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        operation["operationId"]: operation for methods in document["paths"].values() for operation in methods.values()
    }


class TestMergedDocument:
    def test_is_openapi_3_1_and_has_every_operation_of_the_table_of_permissions(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1")
        served = {name.partition("__")[0] for name in operations(document)}
        assert PERMISSIONS.keys() <= served

    def test_tells_where_an_idempotency_key_is_required(self, document: dict[str, Any]) -> None:
        def required(operation: str) -> bool:
            headers = [p for p in operations(document)[operation]["parameters"] if p["name"] == "Idempotency-Key"]
            return bool(headers[0]["required"])

        assert required("match_order")
        assert required("run_matching")
        assert not required("place_order")  # the body may have a client_order_id

    def test_every_operation_that_is_not_public_says_how_to_sign_in(self, document: dict[str, Any]) -> None:
        unsecured = [
            name
            for name, operation in operations(document).items()
            if name.partition("__")[0] in PERMISSIONS
            and PERMISSIONS[name.partition("__")[0]] is not PUBLIC
            and "security" not in operation
        ]
        assert unsecured == []
