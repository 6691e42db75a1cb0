"""Orders jobs as rows in the caller's transaction. Nothing is sent before it commits; what it commits is sent.

After the commit `relay.drain(...)` sends at once; without it the relay function does within about a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog
from functions.core.chunks import chunks
from functions.core.errors import InvalidPayload
from functions.core.job import JobRequest
from functions.core.jsonb import why_not_jsonb
from functions.core.resolve import resolve
from functions.pipeline.envelope import describe

ORDERS_PER_STATEMENT = 1000

ENQUEUE = text("SELECT id, created FROM enqueue_jobs(CAST(:orders AS jsonb)) ORDER BY ordinal")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of an order: the job's id, and whether this order created it (else its dedup key was taken)."""

    id: UUID
    created: bool


def enqueue(tx: Connection, requests: Sequence[JobRequest], *, catalog: Catalog = CATALOG) -> list[Enqueued]:
    """Order jobs, one or thousands, one statement per thousand. Returns what became of each, in their order.

    Raises `UnknownJobType` or `InvalidPayload` before anything is written.
    """
    orders = [_order(request, catalog) for request in requests]
    return insert_orders(tx, orders)


def insert_orders(tx: Connection, orders: Sequence[Mapping[str, Any]]) -> list[Enqueued]:
    """The same for orders that are already in the form `enqueue_jobs` takes (migration 0003 describes it)."""
    return [
        Enqueued(row.id, row.created)
        for part in chunks(orders, ORDERS_PER_STATEMENT)
        for row in tx.execute(ENQUEUE, {"orders": json.dumps(part)})
    ]


def validate_payload(job_type: str, payload: Mapping[str, Any], *, catalog: Catalog = CATALOG) -> BaseModel:
    """The payload as its contract's type. Raises `InvalidPayload`: where and why, without the values."""
    contract = resolve(catalog.job_type(job_type).payload)
    try:
        model: BaseModel = contract.model_validate(payload)
    except ValidationError as error:
        raise InvalidPayload(f"the payload of {job_type} is invalid: {describe(error)}") from None
    return model


def _order(request: JobRequest, catalog: Catalog) -> dict[str, Any]:
    payload = validate_payload(request.type, request.payload, catalog=catalog)
    order = {
        "type": request.type,
        "payload": payload.model_dump(mode="json"),
        "tenant_id": request.tenant_id and str(request.tenant_id),
        "group_key": request.group_key,
        "priority": request.priority,
        "run_at": request.run_at and request.run_at.isoformat(),
        "delay_seconds": request.delay_seconds,
        "deadline_at": request.deadline_at and request.deadline_at.isoformat(),
        "dedup_key": request.dedup_key,
        "dedup_window_seconds": request.dedup_window_seconds,
        "correlation_id": request.correlation_id,
    }
    if why := why_not_jsonb(order):
        raise InvalidPayload(f"the order of a job of type {request.type} is nothing PostgreSQL can store: {why}")
    return {name: value for name, value in order.items() if value is not None}
