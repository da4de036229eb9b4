"""HTTP bodies."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from auditor.chain import Verification
from shared.mongo import Document


class AuditRecordRead(BaseModel):
    seq: int
    event_id: str
    timestamp: datetime
    action: str
    user_id: int | None
    role: str
    entity_type: str
    entity_id: str
    old_value: dict[str, Any] | None
    new_value: dict[str, Any] | None
    metadata: dict[str, Any]
    correlation_id: str
    prev_hash: str
    hash: str


class HeadRead(BaseModel):
    seq: int
    hash: str


class FirstBadRead(BaseModel):
    """`reason`: changed, missing, reordered, inserted, tail-cut, rewritten or checkpoint-forged."""

    seq: int
    reason: str


class VerificationRead(BaseModel):
    """`records`: how many were examined, archived ones too. `head`: the last good record. `checkpoints`: how many signed
    ones agreed."""

    valid: bool
    records: int
    head: HeadRead
    first_bad: FirstBadRead | None
    checkpoints: int


class TelemetryRead(BaseModel):
    """`response_time` in whole milliseconds."""

    id: str
    timestamp: datetime
    endpoint: str
    method: str
    response_time: int
    status_code: int
    user_id: int | None
    correlation_id: str
    headers: dict[str, str]


def verification_read(found: Verification) -> VerificationRead:
    bad = found.first_bad
    return VerificationRead(
        valid=found.valid,
        records=found.records,
        head=HeadRead(seq=found.head.seq, hash=found.head.hash),
        first_bad=None if bad is None else FirstBadRead(seq=bad.seq, reason=bad.reason.value),
        checkpoints=found.checkpoints,
    )


def telemetry_read(document: Document) -> TelemetryRead:
    return TelemetryRead.model_validate({**document, "id": document["_id"]})
