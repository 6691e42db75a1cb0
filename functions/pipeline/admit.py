"""Turns readable messages into references to rows of the ledger, inserting the rows of external ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functions.db.engine import transaction
from functions.pipeline.batch import Batch
from functions.pipeline.decide import HandBack
from functions.pipeline.enqueue import insert_orders
from functions.pipeline.envelope import EXTERNAL_ID_PAST, misplaced
from functions.pipeline.inbox import Parcel
from functions.pipeline.ledger import Reference

TWIN_SECONDS = 30
"""A second copy of a message in the same batch looks again after this, when the first has been settled."""


def admit_external(parcels: Sequence[Parcel], batch: Batch) -> list[Reference]:
    """A reference per job. Rows of external messages are inserted, each under its own id or dedup key, once."""
    external = [parcel for parcel in parcels if parcel.envelope.external]
    ids = {parcel.message.message_id: parcel.envelope.id for parcel in parcels}
    if external:
        with transaction() as tx:
            enqueued = insert_orders(tx, [_order(parcel) for parcel in external])
        ids |= {parcel.message.message_id: row.id for parcel, row in zip(external, enqueued, strict=True)}
    references: dict[Any, Reference] = {}
    for parcel in parcels:
        message, job_id = parcel.message, ids[parcel.message.message_id]
        if job_id is None:  # the envelope's contract rules this out; kept for the type checker
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
