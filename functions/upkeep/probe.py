"""`upkeep.probe`: proves that jobs run, fail, die and are redriven as they should, on any deployment."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from functions.core.job import Job
from functions.core.outcome import Done, GiveUp, Outcome
from functions.upkeep.payloads import Probe

if TYPE_CHECKING:
    from sqlalchemy import Connection

LEAVE_EFFECT = text("INSERT INTO probe_effects (job_id) VALUES (:job_id)")


class ProbeFailed(Exception):
    """The probe failed because its payload told it to."""


def perform(job: Job[Probe], tx: Connection) -> Outcome:
    """Leave one row in `probe_effects`, then end as the payload says."""
    tx.execute(LEAVE_EFFECT, {"job_id": job.id})
    wanted = job.payload
    time.sleep(wanted.sleep_seconds)
    if job.runs <= wanted.crash_runs:
        os._exit(137)
    if wanted.give_up:
        return GiveUp("the payload said to give up")
    if job.runs <= wanted.fail_runs:
        raise ProbeFailed(f"run {job.runs} fails as ordered; the first {wanted.fail_runs} runs do")
    return Done({"run": job.runs})
