"""`compliance.refresh`: the scores of all clients of a tenant. Planned daily at 02:00 of the tenant's own day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID

from functions.compliance.payloads import ComplianceRefresh
from functions.core.job import Job
from functions.core.outcome import Done, GiveUp, Outcome, Skipped

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEDULE = "daily-compliance-refresh"


def perform(jobs: Sequence[Job[ComplianceRefresh]], tx: Connection) -> list[Outcome]:
    """Refresh every tenant of the batch, each as of the latest of its days: scores never go back to an older one."""
    from functions.compliance.queries import refresh

    latest: dict[UUID, date] = {}
    for job in jobs:
        if job.tenant_id is not None:
            day = job.payload.local_date
            latest[job.tenant_id] = max(day, latest.get(job.tenant_id, day))
    refreshed = refresh(tx, latest) if latest else {}
    outcomes: list[Outcome] = []
    for job in jobs:
        if job.tenant_id is None:
            outcomes.append(GiveUp("compliance.refresh needs a tenant_id"))
        elif job.tenant_id not in refreshed:
            outcomes.append(Skipped("the tenant was deleted"))
        elif (found := refreshed[job.tenant_id]) is None or job.payload.local_date < latest[job.tenant_id]:
            outcomes.append(Skipped("the scores are as of a later day already"))
        else:
            outcomes.append(Done({"clients": found.clients, "changed": found.changed}))
    return outcomes


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `daily-compliance-refresh`: plans the refreshes that have come due, on a cron rule."""
    from functions.pipeline.schedule import run

    return run(event, context, schedule=SCHEDULE)
