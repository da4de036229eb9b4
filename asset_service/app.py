"""The API of asset_service."""

from fastapi import FastAPI

from asset_service.dependencies import AssetResources
from asset_service.endpoints import router
from asset_service.settings import NAME, Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(_: EdgeSettings) -> AssetResources:
    return AssetResources(Settings())


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
