"""The merged OpenAPI 3.1 document: what FastAPI derives, with our errors in place of its own."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from shared.auth.permissions import PUBLIC, Scope
from shared.http.route import KEY_RULE, EdgeRoute

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "message"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "message": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_MAY_ALWAYS = {"400", "413", "414", "422", "429", "431", "500", "503"}
_MAY_WHEN_SIGNED_IN = {"401", "403", "404", "409"}
_DESCRIPTIONS = {
    "400": "Malformed request",
    "401": "Not signed in",
    "403": "Not permitted",
    "404": "Not found",
    "408": "The body came too slowly",
    "409": "Conflict",
    "413": "Body too large",
    "414": "Address too long",
    "415": "Unsupported media type",
    "422": "Invalid request",
    "429": "Too many requests",
    "431": "Headers too large",
    "500": "Internal error",
    "503": "Temporarily unavailable",
}


def build_document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, openapi_version="3.1.0", routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = _PROBLEM
    document["components"]["securitySchemes"] = {
        "token": {"type": "oauth2", "flows": {"password": {"tokenUrl": "/api/auth/token", "scopes": {}}}},
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _complete(document["paths"][route.path_format][method.lower()], route, method)
    return document


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    rule = operation.get(KEY_RULE)
    for name in [name for name in operation if name.startswith("x-brokage")]:
        del operation[name]
    public = not isinstance(route, EdgeRoute) or route.grants is PUBLIC
    if isinstance(route, EdgeRoute) and not public:
        operation["description"] = "\n\n".join(filter(None, (operation.get("description"), _who(route))))
    codes = set(_MAY_ALWAYS)
    if not public:
        codes |= _MAY_WHEN_SIGNED_IN
        operation["security"] = [{"bearer": []}]
    if "{" in route.path:
        codes |= {"404"}
    if method in ("POST", "PUT", "PATCH"):
        codes |= {"408", "415"}
    if method == "POST" and not public:
        operation.setdefault("parameters", []).append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": rule is not None and rule.get("unless") is None,
                "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
            }
        )
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for code in sorted(codes):
        existing = operation["responses"].get(code, {})
        description = _DESCRIPTIONS[code] if code == "422" else existing.get("description", _DESCRIPTIONS[code])
        operation["responses"][code] = {**existing, "description": description, "content": problem}


_REACH = {Scope.ANY: "", Scope.ASSIGNED: " (assigned)", Scope.OWN: " (own)"}


def _who(route: EdgeRoute) -> str:
    """The operation's row of the table of permissions, for a reader."""
    roles = ", ".join(f"{role}{_REACH[scope]}" for role, scope in route.grants.items())
    scopes = " or ".join(f"`{scope}`" for scope in sorted(route.api_scopes))
    return f"Roles: {roles}. " + (f"API keys: scope {scopes}." if scopes else "Not for API keys.")
