"""The body of a message: who the job is, never what it holds.

Only an `external` message brings its payload along; every other one is a reference to a row of the ledger.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from functions.core.catalog import Catalog
from functions.core.errors import NewerEnvelope, RejectedMessage, UnknownJobType
from functions.core.job import ENVELOPE_VERSION
from functions.core.jsonb import why_not_jsonb
from functions.core.limits import LARGEST_PAYLOAD, LONGEST_DEDUP_KEY, json_size, why_not_correlation_id

EXTERNAL_ID_PAST = timedelta(days=14)
"""SQS keeps no message longer (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html)."""
EXTERNAL_ID_FUTURE = timedelta(days=1)
END_OF_CALENDAR = datetime.max.replace(tzinfo=UTC).timestamp() - 1
"""A UUIDv7 can tell of instants after the year 9999, which no datetime can."""


class Envelope(BaseModel):
    """A message's body. Unknown fields are ignored, so that a later release may add some without a new version, and a
    producer that still names a `group_key`, as one could before groups followed from the payload, loses no message.
    """

    model_config = ConfigDict(frozen=True)

    v: Literal[1]
    # What cannot be a job type is not quoted back as an unknown one: it may be anything.
    type: Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9._-]+$")]
    id: UUID | None = None
    delivery: Annotated[int, Field(ge=1, lt=2**31)] = 1
    tenant_id: UUID | None = None
    correlation_id: str | None = None
    external: bool = False
    payload: dict[str, Any] | None = None
    dedup_key: Annotated[str, Field(min_length=1, max_length=LONGEST_DEDUP_KEY)] | None = None

    @model_validator(mode="after")
    def _identified(self) -> Self:
        if not self.external and self.id is None:
            raise ValueError("a message needs the id of its job")
        if self.external and self.payload is None:
            raise ValueError("an external message needs its payload")
        if self.external and (self.id is None) == (self.dedup_key is None):
            raise ValueError("an external message needs either an id (UUIDv7) or a dedup_key")
        # A reference's own are not read: the row has them.
        if self.external and self.correlation_id is not None and (why := why_not_correlation_id(self.correlation_id)):
            raise ValueError(why)
        if self.external and (size := json_size(self.payload)) > LARGEST_PAYLOAD:
            raise ValueError(f"payload is at most {LARGEST_PAYLOAD} bytes as text, not {size}")
        return self


def parse(body: str, *, queue: str, catalog: Catalog, now: datetime) -> Envelope:
    """Read a message's body.

    Raises `RejectedMessage` with a readable reason that quotes no value of the body (it may be personal), or
    `NewerEnvelope` when a later release wrote it.
    """
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RejectedMessage(f"the body is no JSON: {_where(error)}") from None
    if not isinstance(raw, dict):
        raise RejectedMessage(f"the body is a JSON {_kind(raw)}, not an object with v, id, delivery and type")
    if why := why_not_jsonb(raw):
        raise RejectedMessage(f"the body is nothing PostgreSQL can store: {why}")
    version = raw.get("v")
    if isinstance(version, int) and version > ENVELOPE_VERSION:
        raise NewerEnvelope(f"envelope version {version} is newer than this release's {ENVELOPE_VERSION}")
    try:
        envelope = Envelope.model_validate(raw)
    except ValidationError as error:
        raise RejectedMessage(f"the envelope is invalid: {describe(error)}") from None
    if envelope.external and (why := misplaced(envelope, queue=queue, catalog=catalog)):
        raise RejectedMessage(why)
    if envelope.external and envelope.id is not None:
        _check_external_id(envelope.id, now)
    return envelope


def misplaced(envelope: Envelope, *, queue: str, catalog: Catalog) -> str | None:
    """Why, by this release's catalogue, the message does not belong on the queue; None where it does.

    Of a reference the ledger knows better: a type may have moved, and a later release may know more of them.
    """
    try:
        wanted = catalog.job_type(envelope.type).queue
    except UnknownJobType as error:
        return str(error)
    return None if wanted == queue else f"job type {envelope.type!r} travels on queue {wanted!r}, not {queue!r}"


def describe(error: ValidationError) -> str:
    """A pydantic error in one line: where and why, without the values."""
    parts = [
        f"{'.'.join(str(step) for step in item['loc']) or 'whole'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return "; ".join(parts)


def instant_of(job_id: UUID) -> datetime | None:
    """The instant in a UUIDv7, or None for any other UUID."""
    if job_id.version != 7:
        return None
    return datetime.fromtimestamp(min((job_id.int >> 80) / 1000, END_OF_CALENDAR), tz=UTC)


def _check_external_id(job_id: UUID, now: datetime) -> None:
    made = instant_of(job_id)
    if made is None:
        raise RejectedMessage("an external message's id must be a UUIDv7")
    if not now - EXTERNAL_ID_PAST <= made <= now + EXTERNAL_ID_FUTURE:
        raise RejectedMessage(
            f"an external message's id must be from the last {EXTERNAL_ID_PAST.days} days or the coming"
            f" {EXTERNAL_ID_FUTURE.days}; this one is from {made:%Y-%m-%d}"
        )


def _where(error: Exception) -> str:
    return f"{error.msg} at position {error.pos}" if isinstance(error, json.JSONDecodeError) else type(error).__name__


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
