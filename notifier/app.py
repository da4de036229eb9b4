"""The API of the notifier."""

from fastapi import FastAPI

from notifier.dependencies import NotifierResources
from notifier.documents import NAME
from notifier.endpoints import router
from notifier.settings import Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(_: EdgeSettings) -> NotifierResources:
    return NotifierResources(Settings())


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
