"""Turns readable messages into references to rows of the ledger, inserting the rows of external ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from functions.db.engine import error_text, is_nobodys_fault, transaction
from functions.pipeline.batch import Batch
from functions.pipeline.decide import HandBack
from functions.pipeline.enqueue import insert_orders
from functions.pipeline.envelope import EXTERNAL_ID_PAST, misplaced
from functions.pipeline.inbox import Parcel
from functions.pipeline.ledger import Reference
from functions.pipeline.reject import reject

TWIN_SECONDS = 30
"""A second copy of a message in the same batch looks again after this, when the first has been settled."""


def admit_external(parcels: Sequence[Parcel], batch: Batch) -> list[Reference]:
    """A reference per job. Rows of external messages are inserted, each under its own id or dedup key, once."""
    external = [parcel for parcel in parcels if parcel.envelope.external]
    ids = {parcel.message.message_id: parcel.envelope.id for parcel in parcels if not parcel.envelope.external}
    if external:
        ids |= _inserted(external, batch)
    references: dict[Any, Reference] = {}
    for parcel in parcels:
        message, job_id = parcel.message, ids.get(parcel.message.message_id)
        if job_id is None:  # rejected
            continue
        if job_id in references:
            # In a FIFO queue the group waits behind it.
            batch.reply.set(message.message_id, HandBack(0 if batch.fifo else TWIN_SECONDS))
        else:
            envelope = parcel.envelope
            references[job_id] = Reference(
                job_id,
                envelope.delivery,
                message.message_id,
                message.sent_at,
                envelope.type,
                message.group,
                misplaced(envelope, queue=batch.queue, catalog=batch.catalog),
            )
    return list(references.values())


def _inserted(external: Sequence[Parcel], batch: Batch) -> dict[str, UUID | None]:
    """The jobs of external messages, by message id; one by one where PostgreSQL refuses an order, which is rejected."""
    try:
        with transaction() as tx:
            enqueued = insert_orders(tx, [_order(parcel) for parcel in external])
    except DBAPIError as error:
        if is_nobodys_fault(error):
            raise
        if len(external) > 1:
            return {key: job_id for parcel in external for key, job_id in _inserted([parcel], batch).items()}
        reject([(external[0].message, error_text(error))], batch)
        return {}
    return {parcel.message.message_id: row.id for parcel, row in zip(external, enqueued, strict=True)}


def _order(parcel: Parcel) -> dict[str, Any]:
    envelope = parcel.envelope
    order = {
        "type": envelope.type,
        "payload": envelope.payload,
        "sent": True,
        "id": envelope.id and str(envelope.id),
        "tenant_id": envelope.tenant_id and str(envelope.tenant_id),
        "correlation_id": envelope.correlation_id,
        "dedup_key": envelope.dedup_key,
        # As long as SQS may hold a copy: one that comes after the job is finished must find the key taken.
        "dedup_window_seconds": EXTERNAL_ID_PAST.total_seconds() if envelope.dedup_key else None,
    }
    return {name: value for name, value in order.items() if value is not None}
