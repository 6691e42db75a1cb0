"""`email.document_expiry`: who is told by e-mail which documents expire. Planned daily at 07:00 local."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from functions.core.job import Job
from functions.core.outcome import Outcome
from functions.notifications.payloads import PlanDay
from functions.notifications.plan import plan_notices
from functions.notifications.rules import DOCUMENT_EXPIRY

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEDULE = "daily-document-expiry"


def perform(jobs: Sequence[Job[PlanDay]], tx: Connection) -> list[Outcome]:
    return plan_notices(jobs, tx, warnings=DOCUMENT_EXPIRY, channel="email")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `daily-document-expiry`: plans the runs that have come due, on a cron rule."""
    from functions.pipeline.schedule import run

    return run(event, context, schedule=SCHEDULE)
