"""Pausing a queue: a row that claim and relay read stops it within one batch; the event source mapping follows.

The row is the truth. The mapping only saves the receives; what AWS did not take, or a deployment or a person changed,
the sweep puts in step again.
"""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Connection, Row, text

from functions.aws import mappings
from functions.core.catalog import CATALOG, Catalog
from functions.db.engine import transaction
from functions.pipeline import observe
from functions.pipeline.settings import settings

PAUSE = text("""
    UPDATE queues SET paused_at = clock_timestamp(), paused_by = :actor, pause_reason = :reason
    WHERE name = :queue AND paused_at IS NULL
    RETURNING name, paused_at, paused_by, pause_reason
""")
RESUME = text("""
    WITH before AS (SELECT name, paused_at, paused_by, pause_reason FROM queues WHERE name = :queue FOR UPDATE)
    UPDATE queues SET paused_at = NULL, paused_by = NULL, pause_reason = NULL FROM before
    WHERE queues.name = before.name AND before.paused_at IS NOT NULL
    RETURNING before.name, before.paused_at, before.paused_by, before.pause_reason
""")
STATE = text("SELECT name, paused_at, paused_by, pause_reason FROM queues WHERE name = :queue")
PAUSED = text("SELECT name FROM queues WHERE paused_at IS NOT NULL")


def pause(tx: Connection, queue: str, *, actor: str, reason: str | None) -> Row[tuple[object, ...]] | None:
    """Pause a queue. Returns its row, or None when it is paused already."""
    return tx.execute(PAUSE, {"queue": queue, "actor": actor, "reason": reason}).one_or_none()


def resume(tx: Connection, queue: str) -> Row[tuple[object, ...]] | None:
    """Resume a queue. Returns the row as it was, or None when it is not paused."""
    return tx.execute(RESUME, {"queue": queue}).one_or_none()


def switch_mapping(queue: str, *, on: bool) -> mappings.Mapping | None:
    """Put a queue's mapping in step with its row. None where it has none; raises botocore's errors."""
    found = mappings.mapping_of(settings().worker_function(queue))
    return found and mappings.switch(found, on=on)


def put_mappings_in_step(catalog: Catalog = CATALOG) -> int:
    """Switch every queue's mapping to what its row says. Returns how many were not in step."""
    with transaction() as tx:
        paused = {row.name for row in tx.execute(PAUSED)}
    try:
        found = mappings.all_mappings()
    except (BotoCoreError, ClientError) as error:
        observe.logger().warning("mappings_unknown", error=observe.summary(error))
        return 0
    switched = 0
    for queue in catalog.queues:
        before = found.get(settings().worker_function(queue))
        try:
            after = before and mappings.switch(before, on=queue not in paused)
        except (BotoCoreError, ClientError) as error:
            # Most often a change under way; the next sweep looks again.
            observe.logger().warning("mapping_not_switched", queue=queue, error=observe.summary(error))
            continue
        if before != after and after is not None:
            observe.logger().warning("mapping_switched", queue=queue, state=after.state)
            switched += 1
    return switched
