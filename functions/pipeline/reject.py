"""Messages nobody can understand: on record with a readable reason, and on their way to the dead-letter queue."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import text

from functions.db.engine import transaction
from functions.pipeline import observe
from functions.pipeline.batch import Batch
from functions.pipeline.decide import HandBack
from functions.pipeline.inbox import Message

# The body is not kept: it may be personal, and the dead-letter queue has it. A standard queue may deliver a message
# twice in one batch, and an upsert may not meet a row twice.
REJECT = text("""
    INSERT INTO rejected_messages (queue, message_id, reason, receives)
    SELECT DISTINCT ON (message_id) :queue, message_id, reason, receives
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(message_id text, reason text, receives integer)
    ORDER BY message_id, receives DESC
    ON CONFLICT (queue, message_id) DO UPDATE
        SET reason = excluded.reason, receives = excluded.receives, last_seen = now()
""")


def reject(rejected: Sequence[tuple[Message, str]], batch: Batch) -> None:
    """Record the reasons in one statement, count them, and hand the messages straight back: SQS's redrive policy does
    the rest.
    """
    rows = [
        {"message_id": message.message_id, "reason": reason, "receives": message.receives}
        for message, reason in rejected
    ]
    with transaction() as tx:
        tx.execute(REJECT, {"queue": batch.queue, "rows": json.dumps(rows)})
    for message, reason in rejected:
        observe.logger().error(
            "message_rejected", reason=reason, message_id=message.message_id, receives=message.receives
        )
        batch.reply.set(message.message_id, HandBack(0))
    batch.tally.add("MessagesRejected", len(rejected), queue=batch.queue)
