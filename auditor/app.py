"""The API of the auditor."""

from fastapi import FastAPI

from auditor.dependencies import AuditorResources
from auditor.documents import NAME
from auditor.endpoints import router
from auditor.settings import Settings
from shared.app import EdgeSettings, ServiceApi, create_app


def start(_: EdgeSettings) -> AuditorResources:
    return AuditorResources(Settings())


api = ServiceApi(name=NAME, router=router, start=start)


def create() -> FastAPI:
    """The application when this service runs alone."""
    return create_app([api])
