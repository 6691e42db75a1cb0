"""What the four planners of notices have in common: documents or filings, by e-mail or in the application."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING
from uuid import UUID

from functions.core.job import Job, JobRequest
from functions.core.outcome import Done, GiveUp, Outcome, Skipped
from functions.notifications.payloads import PlanDay
from functions.notifications.rules import Channel, Warnings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from functions.notifications.plan_queries import Reader

MAIL_AT_ONCE = {"document_expiry": "email.document_expiry_warning", "filing": "email.filing_reminder"}


def plan_notices(
    jobs: Sequence[Job[PlanDay]], tx: Connection, *, warnings: Warnings, channel: Channel
) -> list[Outcome]:
    """Write what is due in every tenant of the batch, and order the mails that cannot wait for a digest.

    Such a mail takes what is pending when it is sent, so that it needs no deduplication key: only notices that this
    run wrote order it, and the notice is unique.
    """
    from functions.notifications.plan_queries import plan

    latest = latest_runs(jobs)
    planned = plan(tx, {tenant_id: job.payload.local_date for tenant_id, job in latest.items()}, warnings, channel)
    outcomes: list[Outcome] = []
    for job in jobs:
        if job.tenant_id is None:
            outcomes.append(GiveUp(f"{job.type} needs a tenant_id"))
        elif (found := planned.get(job.tenant_id)) is None:
            outcomes.append(Skipped("the tenant was deleted"))
        elif latest[job.tenant_id] is not job:
            outcomes.append(Skipped("a run of the same tenant in the same batch covers it"))
        else:
            result = {"notices": found.notices, "suppressed": found.suppressed, "unheard": found.unheard}
            outcomes.append(Done(result, enqueue=mails(MAIL_AT_ONCE[warnings.category], job, found.at_once)))
    return outcomes


def latest_runs(jobs: Iterable[Job[PlanDay]]) -> dict[UUID, Job[PlanDay]]:
    """One job a tenant, that of the latest local date: two days in one batch must not become a burst."""
    latest: dict[UUID, Job[PlanDay]] = {}
    for job in jobs:
        if job.tenant_id is not None:
            held = latest.setdefault(job.tenant_id, job)
            if job.payload.local_date > held.payload.local_date:
                latest[job.tenant_id] = job
    return latest


def mails(
    mail_type: str, job: Job[PlanDay], readers: Iterable[Reader], *, dedup_window_seconds: float | None = None
) -> list[JobRequest]:
    """One mail a reader, not before the end of their quiet hours; with a window, one a reader and local date."""
    day: date = job.payload.local_date
    return [
        JobRequest(
            mail_type,
            {"recipient_kind": reader.kind, "recipient_id": str(reader.id), "local_date": day.isoformat()},
            tenant_id=job.tenant_id,
            run_at=reader.not_before,
            correlation_id=job.correlation_id,
            dedup_key=None if dedup_window_seconds is None else f"{reader.kind}/{reader.id}/{day}",
            dedup_window_seconds=dedup_window_seconds,
        )
        for reader in readers
    ]
