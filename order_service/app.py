"""The API of order_service."""

from fastapi import FastAPI

from order_service.dependencies import OrderResources
from order_service.endpoints import router
from order_service.settings import NAME, Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(_: EdgeSettings) -> OrderResources:
    return OrderResources(Settings())


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
