"""`/api/dead-letters/{service}`, served by that service itself. Its resources have `dead_letters`."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from shared.db.page import decode_id_cursor, page_of
from shared.errors import NotFound
from shared.http.caller import Caller
from shared.http.paging import Collection, Paging
from shared.http.route import service_router
from shared.ids import is_id
from shared.messaging.dead_letters import DeadLetters, Row


class DeadLetterRead(BaseModel):
    """An event that was given up (PARKED), or one that waits behind it (HELD), until it is REQUEUED. `message` as it came."""

    id: str
    event_id: str
    event_type: str
    aggregate_type: str
    aggregate_id: str
    status: str
    reason: str
    message: Any
    created_at: datetime


class DeadLetterDetail(DeadLetterRead):
    """`together`: the open letters of its aggregate, in the order in which a requeue takes them."""

    together: list[DeadLetterRead]


def dead_letter_router(service: str) -> APIRouter:
    """The routes of one service. Their operation ids end in its name, because a process may serve several."""
    router = service_router(tags=["dead letters"])
    path = f"/api/dead-letters/{service}"

    async def find_letters(request: Request) -> DeadLetters:
        letters: DeadLetters = request.app.state.services[service].dead_letters
        return letters

    @router.get(path, operation_id=f"list_dead_letters__{service}", summary=f"Open dead letters of {service}")
    def list_dead_letters(
        caller: Caller, letters: Annotated[DeadLetters, Depends(find_letters)], paging: Paging
    ) -> Collection[DeadLetterRead]:
        rows = letters.list_open(after=decode_id_cursor(paging.cursor), limit=paging.limit + 1)
        page = page_of(rows, limit=paging.limit, key=lambda row: [row["id"]])
        return Collection(data=[_read(row) for row in page.data], next_cursor=page.next_cursor)

    @router.get(
        f"{path}/{{letter_id}}",
        operation_id=f"get_dead_letter__{service}",
        summary=f"A dead letter of {service}, and what a requeue takes with it",
    )
    def get_dead_letter(
        letter_id: str, caller: Caller, letters: Annotated[DeadLetters, Depends(find_letters)]
    ) -> DeadLetterDetail:
        if not is_id(letter_id):
            raise NotFound()
        letter, together = letters.show(letter_id)
        return DeadLetterDetail(**_read(letter).model_dump(), together=[_read(row) for row in together])

    @router.post(
        f"{path}/{{letter_id}}/requeue",
        operation_id=f"requeue_dead_letter__{service}",
        summary=f"Let {service} handle an event again, and those held behind it",
        status_code=202,
    )
    def requeue_dead_letter(
        letter_id: str, caller: Caller, letters: Annotated[DeadLetters, Depends(find_letters)]
    ) -> DeadLetterRead:
        if not is_id(letter_id):
            raise NotFound()
        return _read(letters.requeue(letter_id, caller.context()))

    return router


def _read(row: Row) -> DeadLetterRead:
    return DeadLetterRead(**{name: row[name] for name in DeadLetterRead.model_fields})
