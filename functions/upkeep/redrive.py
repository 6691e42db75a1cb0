"""`upkeep.redrive`: revives dead jobs at a steady rate, then deletes their stale copies from the dead-letter queue.

It runs in steps, each committed with its progress, and can be paused or removed between two. What died after it
began, a redriven job that died again among them, is left alone; so is a job whose deduplication key a newer one holds.
What somebody else held for a moment is met again in a further round.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from sqlalchemy import text

from functions.core.job import Job
from functions.core.outcome import Continue, Done, Outcome
from functions.pipeline import redrive
from functions.pipeline.redrive import Dead
from functions.upkeep.payloads import Redrive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

STEP_SECONDS = 5.0
"""A step revives what shall run in so many seconds; that much is on its way when somebody pauses the redrive."""
LEAD_SECONDS = 2.0
"""The next step begins this much before the last one's jobs are sent: relay and worker take time."""
MOST_ROUNDS = 30
ROUND_SECONDS = 10.0
"""Between two rounds, for what was locked: five minutes in all. No transaction of the flow takes longer."""
APPROXIMATION = 100
"""SQS's counts are approximate: a drain may look at so many more messages than were counted before it gives up."""

CLOCK = text("SELECT clock_timestamp()")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a redrive has come. `total` and `copies` were counted at its beginning."""

    total: int
    copies: int
    died_before: datetime
    next_at: datetime
    """From when on the next step's jobs are sent."""
    after: UUID | None = None
    """The last job looked at: ids only go up within a round."""
    rounds: int = 0
    revived: int = 0
    draining: bool = False
    looked_at: int = 0
    drained: int = 0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        instants = {name: datetime.fromisoformat(raw[name]) for name in ("died_before", "next_at")}
        return cls(**{**raw, **instants, "after": raw["after"] and UUID(raw["after"])})

    def write(self) -> dict[str, Any]:
        instants = {"died_before": self.died_before.isoformat(), "next_at": self.next_at.isoformat()}
        return asdict(self) | instants | {"after": self.after and str(self.after)}

    @property
    def progress(self) -> float:
        return min(1.0, (self.revived + self.looked_at) / max(1, self.total + self.copies))


def perform(job: Job[Redrive], tx: Connection) -> Outcome:
    """Do one step."""
    now: datetime = tx.execute(CLOCK).scalar_one()
    at = Checkpoint.read(job.checkpoint) if job.checkpoint else _begin(job.payload, tx, now)
    return _drain(job.payload, at, tx) if at.draining else _revive(job.payload, at, tx, now)


def _begin(wanted: Redrive, tx: Connection, now: datetime) -> Checkpoint:
    before = min(now, wanted.died_before or now)
    total = redrive.count_dead(tx, _dead(wanted, before))
    return Checkpoint(total, redrive.dead_letters(wanted.queue), died_before=before, next_at=now)


def _revive(wanted: Redrive, at: Checkpoint, tx: Connection, now: datetime) -> Outcome:
    most = max(1, round(wanted.per_second * STEP_SECONDS))
    dead = _dead(wanted, at.died_before)
    ids = redrive.next_dead(tx, dead, after=at.after, most=most)
    start = max(now, at.next_at)
    revived = redrive.redrive(tx, ids, start=start, gap_seconds=1 / wanted.per_second).revived
    done = replace(
        at,
        revived=at.revived + len(revived),
        after=ids[-1] if ids else at.after,
        next_at=start + timedelta(seconds=len(ids) / wanted.per_second),
    )
    next_step = done.next_at - timedelta(seconds=LEAD_SECONDS)
    if len(ids) == most:
        return Continue(done.write(), done.progress, until=next_step)
    if at.rounds < MOST_ROUNDS and redrive.next_dead(tx, dead, after=None, most=1):
        again = replace(done, after=None, rounds=at.rounds + 1)
        return Continue(again.write(), done.progress, until=max(next_step, now + timedelta(seconds=ROUND_SECONDS)))
    return Continue(replace(done, draining=True).write(), done.progress)


def _drain(wanted: Redrive, at: Checkpoint, tx: Connection) -> Outcome:
    step = redrive.drain_step(tx, wanted.queue)
    done = replace(at, looked_at=at.looked_at + step.looked_at, drained=at.drained + step.deleted)
    if step.finished or done.looked_at > done.copies + APPROXIMATION:
        return Done({"revived": done.revived, "drained": done.drained, **_left(tx, _dead(wanted, at.died_before))})
    return Continue(done.write(), done.progress)


def _left(tx: Connection, dead: Dead) -> dict[str, int]:
    """How many of the jobs meant are still dead, by why, where there are any: `left` for their key, or `locked`."""
    left = redrive.count_left(tx, dead)
    found = {"left": left, "locked": redrive.count_dead(tx, dead) - left}
    return {why: jobs for why, jobs in found.items() if jobs}


def _dead(wanted: Redrive, before: datetime) -> Dead:
    return Dead(wanted.queue, wanted.type, wanted.tenant_id, wanted.error_class, before)
