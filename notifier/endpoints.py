"""A customer's own notifications."""

from datetime import UTC, datetime

from notifier import documents, service
from notifier.dependencies import Resources
from notifier.documents import NAME
from notifier.schemas import NotificationRead, notification_read
from shared.db.page import InvalidCursor, decode_cursor, page_of
from shared.http.caller import Caller
from shared.http.dead_letters import dead_letter_router
from shared.http.paging import Collection, Paging
from shared.http.route import service_router
from shared.mongo import Document

router = service_router(tags=["notifications"])
router.routes.extend(dead_letter_router(NAME).routes)


@router.get("/api/notifications", summary="Your notifications, the newest first")
def list_notifications(caller: Caller, resources: Resources, paging: Paging) -> Collection[NotificationRead]:
    after = _position(paging.cursor) if paging.cursor else None
    with resources.database.reachable():
        found = documents.list_notifications(resources.database, caller.customer_id, after, paging.limit + 1)
    page = page_of(found, limit=paging.limit, key=_key)
    return Collection(data=[notification_read(document) for document in page.data], next_cursor=page.next_cursor)


@router.post("/api/notifications/{notification_id}/read", summary="Mark a notification as read", status_code=204)
def mark_notification_read(notification_id: str, caller: Caller, resources: Resources) -> None:
    service.mark_read(resources.database, caller.customer_id, notification_id)


def _key(document: Document) -> list[str | int]:
    return [_moment_text(document["created_at"]), document["_id"]]


def _moment_text(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="milliseconds")


def _position(cursor: str) -> tuple[datetime, str]:
    moment, id = decode_cursor(cursor, str, str)
    try:
        created_at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise InvalidCursor from error
    if _moment_text(created_at) != moment:
        raise InvalidCursor
    return created_at, id
