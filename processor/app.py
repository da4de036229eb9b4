"""The API of the processor."""

from fastapi import FastAPI

from processor.dependencies import ProcessorResources
from processor.endpoints import router
from processor.settings import NAME, Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(_: EdgeSettings) -> ProcessorResources:
    return ProcessorResources(Settings())


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
