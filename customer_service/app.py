"""The API of customer_service."""

from fastapi import FastAPI

from customer_service.dependencies import CustomerResources
from customer_service.endpoints import router
from customer_service.settings import NAME, Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(edge: EdgeSettings) -> CustomerResources:
    return CustomerResources(Settings(), external_issuer=edge.oidc_issuer is not None)


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
