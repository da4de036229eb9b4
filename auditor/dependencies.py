"""What the endpoints depend on: the open resources of this service in this process."""

from functools import partial
from typing import Annotated, cast

from fastapi import Depends, Request

from auditor import documents, service
from auditor.documents import NAME
from auditor.keeping import Keeping
from auditor.refusals import RefusedMessages
from auditor.service import Auditor
from auditor.settings import Settings
from auditor.tasks import open_writer
from shared.app import service_resources
from shared.http.streaming import Places
from shared.mongo import MongoPrincipals
from shared.mongo.dead_letters import MongoDeadLetters

EXPORTS_MAX = 8
"""At once, in a process: each holds a batch of the trail, some MB, until its caller has read it or is cut."""


class AuditorResources:
    """The database, open while the process serves."""

    def __init__(self, settings: Settings) -> None:
        self.database = documents.open_database(settings, pool_size=settings.api_pool_size)
        self.keeping = Keeping.open(self.database, settings)
        self.principals = MongoPrincipals(self.database)
        self.refused = RefusedMessages(self.database)
        self.export_places = Places(EXPORTS_MAX)
        self.dead_letters = MongoDeadLetters(
            self.database,
            consumer=NAME,
            handler=Auditor(self.database, open_writer(self.database, settings)).handle,
            record=partial(service.record_event, self.database),
        )

    def ready(self) -> str | None:
        self.database.ping()
        return None

    def close(self) -> None:
        self.refused.close()
        self.database.close()


async def _resources(request: Request) -> AuditorResources:
    return cast(AuditorResources, service_resources(request, NAME))


Resources = Annotated[AuditorResources, Depends(_resources)]
