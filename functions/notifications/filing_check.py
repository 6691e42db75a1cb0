"""`notifications.filing_check`: who is told in the application which filings fall due. Planned daily at 09:00 local."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from functions.core.job import Job
from functions.core.outcome import Outcome
from functions.notifications.payloads import PlanDay
from functions.notifications.plan import plan_notices
from functions.notifications.rules import FILING

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEDULE = "daily-filing-check"


def perform(jobs: Sequence[Job[PlanDay]], tx: Connection) -> list[Outcome]:
    return plan_notices(jobs, tx, warnings=FILING, channel="in_app")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `daily-filing-check`: plans the runs that have come due, on a cron rule."""
    from functions.pipeline.schedule import run

    return run(event, context, schedule=SCHEDULE)
