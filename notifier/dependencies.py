"""What the endpoints depend on: the open resources of this service in this process."""

from typing import Annotated, cast

from fastapi import Depends, Request

from notifier import documents
from notifier.documents import NAME
from notifier.service import Notifier
from notifier.settings import Settings
from shared.app import service_resources
from shared.mongo import MongoPrincipals
from shared.mongo.dead_letters import MongoDeadLetters


class NotifierResources:
    """The database, open while the process serves."""

    def __init__(self, settings: Settings) -> None:
        self.database = documents.open_database(
            settings, pool_size=settings.api_pool_size, operation_seconds=settings.api_operation_seconds
        )
        self.principals = MongoPrincipals(self.database)
        handler = Notifier(self.database, settings).handle
        self.dead_letters = MongoDeadLetters(self.database, consumer=NAME, handler=handler)

    def ready(self) -> str | None:
        self.database.ping()
        return None

    def close(self) -> None:
        self.database.close()


async def _resources(request: Request) -> NotifierResources:
    return cast(NotifierResources, service_resources(request, NAME))


Resources = Annotated[NotifierResources, Depends(_resources)]
