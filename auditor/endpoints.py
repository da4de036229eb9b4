"""The trail and the telemetry, for auditors and admins. Every read is put on record before it is answered."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import StringConstraints

from auditor import documents, service
from auditor.dependencies import Resources
from auditor.documents import NAME
from auditor.export import ExportFormat, export
from auditor.schemas import AuditRecordRead, TelemetryRead, VerificationRead, telemetry_read, verification_read
from shared.db.page import InvalidCursor, decode_cursor, page_of
from shared.http.caller import Caller
from shared.http.dead_letters import dead_letter_router
from shared.http.fields import BIGINT_MAX, CustomerIdText, Timestamp
from shared.http.paging import Collection, Paging, require_period
from shared.http.route import service_router
from shared.http.streaming import StreamedFromThread
from shared.mongo import Document

router = service_router(tags=["audit"])
router.routes.extend(dead_letter_router(NAME).routes)
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """`start` is included, `end` is not."""

    entity_type: str | None
    entity_id: str | None
    user_id: int | None
    action: str | None
    start: datetime | None
    end: datetime | None

    def query(self) -> Document:
        return documents.log_query(**asdict(self))

    def said(self) -> Document:
        """For the record of the read, under the names of the query's parameters."""
        values = asdict(self)
        period = {"from": values.pop("start"), "to": values.pop("end")}
        return {**values, **{name: moment and moment.isoformat() for name, moment in period.items()}}


async def _filter(
    entity_type: Annotated[Name | None, Query()] = None,
    entity_id: Annotated[Name | None, Query()] = None,
    user_id: Annotated[CustomerIdText | None, Query()] = None,
    action: Annotated[Name | None, Query()] = None,
    start: Annotated[Timestamp | None, Query(alias="from")] = None,
    end: Annotated[Timestamp | None, Query(alias="to")] = None,
) -> LogFilter:
    require_period(start, end, end_name="to")
    return LogFilter(entity_type, entity_id, user_id, action, start, end)


Filter = Annotated[LogFilter, Depends(_filter)]


@router.get("/api/audit/logs", summary="The audit trail, the newest first")
def search_audit_logs(
    caller: Caller, resources: Resources, filter: Filter, paging: Paging
) -> Collection[AuditRecordRead]:
    before_seq = _position(paging.cursor) if paging.cursor else None
    read = {**filter.said(), "before_seq": before_seq, "limit": paging.limit}
    service.record_read(resources.database, caller, "search_audit_logs", read)
    with resources.database.reachable():
        found = documents.search_logs(resources.database, filter.query(), before_seq, paging.limit + 1)
    page = page_of(found, limit=paging.limit, key=lambda record: [record["seq"]])
    return Collection(
        data=[AuditRecordRead.model_validate(record) for record in page.data], next_cursor=page.next_cursor
    )


@router.get("/api/audit/verify", summary="Recompute the trail's hash chain")
def verify_audit(caller: Caller, resources: Resources) -> VerificationRead:
    service.record_read(resources.database, caller, "verify_audit", {})
    return verification_read(resources.keeping.verify())


@router.get(
    "/api/audit/export",
    summary="The audit trail as a file, the oldest first",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}},
)
def export_audit(
    caller: Caller, resources: Resources, filter: Filter, format: Annotated[ExportFormat, Query()] = ExportFormat.NDJSON
) -> StreamingResponse:
    service.record_read(resources.database, caller, "export_audit", {**filter.said(), "format": format.value})
    records = documents.stream_logs(resources.database, filter.query())
    headers = {"Content-Disposition": f'attachment; filename="audit.{format.value}"'}
    return StreamedFromThread(
        export(records, format), resources.export_places, media_type=format.media_type, headers=headers
    )


@router.get("/api/audit/telemetry", summary="Requests served, the newest first; not complete by design")
def list_telemetry(caller: Caller, resources: Resources, paging: Paging) -> Collection[TelemetryRead]:
    before_id = decode_cursor(paging.cursor, str)[0] if paging.cursor else None
    service.record_read(resources.database, caller, "list_telemetry", {"limit": paging.limit})
    with resources.database.reachable():
        found = documents.list_telemetry(resources.database, before_id, paging.limit + 1)
    page = page_of(found, limit=paging.limit, key=lambda document: [document["_id"]])
    return Collection(data=[telemetry_read(document) for document in page.data], next_cursor=page.next_cursor)


def _position(cursor: str) -> int:
    seq: int = decode_cursor(cursor, int)[0]
    if not 0 < seq <= BIGINT_MAX:
        raise InvalidCursor
    return seq
