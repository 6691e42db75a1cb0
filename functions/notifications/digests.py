"""`email.digests`: one digest for everyone who has something pending. Planned daily at 08:30 of the tenant's own day.

It waits until that tenant's planners of the day are done, for as long as the rules say. The digests themselves
(`email.digest`) say what is pending when they are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from functions.core.job import Job
from functions.core.outcome import Done, GiveUp, Outcome, Skipped, Snooze
from functions.notifications.payloads import PlanDay
from functions.notifications.plan import latest_runs, mails
from functions.notifications.rules import DIGEST_WAIT, snooze

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEDULE = "daily-digest"
MAIL = "email.digest"
WAITS_FOR = ("daily-document-expiry", "daily-filing-reminders")

ONE_A_DAY_SECONDS = 3 * 86_400
"""How long a day's digest stays the only one of its reader: longer than any day is planned late, or replayed."""


def perform(jobs: Sequence[Job[PlanDay]], tx: Connection) -> list[Outcome]:
    """Order the digests of every tenant of the batch whose planners are done."""
    from functions.notifications.plan_queries import days, readers

    found = days(
        tx, {job.id: (job.tenant_id, job.payload.local_date) for job in jobs if job.tenant_id is not None}, WAITS_FOR
    )
    outcomes: dict[UUID, Outcome] = {}
    for job in jobs:
        if job.tenant_id is None:
            outcomes[job.id] = GiveUp(f"{job.type} needs a tenant_id")
        elif not found[job.id].tenant_exists:
            outcomes[job.id] = Skipped("the tenant was deleted")
        elif (day := found[job.id]).open_planners and day.waited < DIGEST_WAIT:
            wait = min(snooze(job.runs), DIGEST_WAIT - day.waited)
            outcomes[job.id] = Snooze(day.now + wait, f"waits for {', '.join(day.open_planners)}")
    ready = latest_runs(job for job in jobs if job.id not in outcomes)
    to_read = readers(tx, {tenant_id: job.payload.local_date for tenant_id, job in ready.items()}) if ready else {}
    for tenant_id, job in ready.items():
        orders = mails(MAIL, job, to_read.get(tenant_id, []), dedup_window_seconds=ONE_A_DAY_SECONDS)
        outcomes[job.id] = Done({"digests": len(orders)}, enqueue=orders)
    covered = Skipped("a run of the same tenant in the same batch covers it")
    return [outcomes.get(job.id, covered) for job in jobs]


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `daily-digest`: plans the runs that have come due, on a cron rule."""
    from functions.pipeline.schedule import run

    return run(event, context, schedule=SCHEDULE)
