"""One run: the load of a plan under its faults, then calm until every job has ended, and the verdict."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from duecourse.chaos.load import Kind
from duecourse.chaos.plan import Plan
from duecourse.chaos.roles import LEASE_SECONDS, SWEEP_SECONDS, VISIBILITY_SECONDS
from duecourse.chaos.saboteur import DOUBT
from duecourse.chaos.stage import Stage
from duecourse.chaos.verdict import Observed, Verdict, judge
from duecourse.local.stack import Step
from duecourse.local.state import Home
from functions.db.engine import is_outage
from functions.pipeline.redrive import redrive

PATIENCE_SECONDS = 2 * (LEASE_SECONDS + VISIBILITY_SECONDS + 2 * SWEEP_SECONDS)
"""When no job has ended for this long, what is open is stuck. Twice what it may take: the machine may be busy."""
DRAIN_LIMIT_SECONDS = 600.0
POLL_SECONDS = 1.0

NOW = text("SELECT clock_timestamp()")
LEFT = text("""
    SELECT count(*) FILTER (WHERE open AND type NOT LIKE 'email.%') AS work, count(*) FILTER (WHERE open) AS open,
           count(*) FILTER (WHERE NOT open AND created_at < :calm) AS ended,
           (SELECT count(*) FROM email_messages
            WHERE state = 'intended' AND intended_at < clock_timestamp() - interval '5 seconds') AS doubted
    FROM (SELECT type, created_at, closed_at IS NULL AND state <> 'dead' AS open FROM jobs) AS job
""")
DEAD = text("SELECT id, error_class, extract(epoch FROM died_at)::float8 AS died FROM jobs WHERE died_at IS NOT NULL")
REJECTED = text("SELECT count(*) FROM rejected_messages")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run shows, and what it did for it."""

    plan: Plan
    verdict: Verdict
    faults: dict[str, int]
    skipped: dict[str, str]
    exceptions: dict[str, int]
    """Exceptions out of the handlers of our own workers that were no outage: each is a defect."""
    load_seconds: float
    drain_seconds: float
    """From the last fault until no job was open, mails in doubt left out."""
    mails_seconds: float
    """The same with them."""
    redriven: int
    """Dead jobs that were redriven in the calm."""
    crashed: int
    """Those of them that had died since three workers in a row died under them alone."""
    poison_sent: int
    poison_rejected: int
    """Unreadable messages, and those on record with a reason: fewer when a queue was lost with some."""

    @property
    def ok(self) -> bool:
        return self.verdict.ok and not self.exceptions

    def as_dict(self) -> dict[str, Any]:
        verdict = self.verdict.as_dict()
        del verdict["enqueued"], verdict["ok"]
        return {
            "ok": self.ok,
            "seed": self.plan.seed,
            "enqueued": self.verdict.enqueued,
            **verdict,
            "faults": dict(sorted(self.faults.items())),
            "faults_skipped": self.skipped,
            "exceptions": self.exceptions,
            "redriven": self.redriven,
            "crashed": self.crashed,
            "poison": {"sent": self.poison_sent, "rejected": self.poison_rejected},
            "seconds": {
                "load": round(self.load_seconds, 1),
                "drain": round(self.drain_seconds, 1),
                "drain with mails": round(self.mails_seconds, 1),
            },
        }


@dataclass(frozen=True, slots=True)
class Drained:
    """How the end was reached."""

    seconds: float
    mails_seconds: float
    redriven: int
    crashed: Mapping[UUID, float]
    """Those of them that had died of their workers' losses, and when, in seconds since 1970."""


def run(plan: Plan, home: Home, *, step: Step) -> Outcome:
    """Play the plan on a stack below `home`, of which only logs stay."""
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # connections break here all the time
    with step("Starting PostgreSQL, the emulator and the template") as note:
        stage = Stage.set_up(plan, home)
        note(f"{plan.workers} workers beside the deployed functions")
    try:
        with step(f"Ordering {plan.jobs:,} jobs under {len(plan.faults)} faults, seed {plan.seed}") as note:
            started = time.monotonic()
            _play(stage, plan)
            load_seconds = time.monotonic() - started
            note(f"{stage.tally().total():,} faults in all")
        with step("Calm: waiting for every job to end") as note:
            drained = _drain(stage)
            note(f"{drained.seconds:.0f} s, with the mails in doubt {drained.mails_seconds:.0f} s")
        with step("Counting") as note, stage.load.engine.begin() as tx:
            verdict = judge(tx, stage.load.ordered, _observed(stage, drained))
            rejected = int(tx.execute(REJECTED).scalar_one())
            note("nothing lost, nothing doubled" if verdict.ok else "NOT as it should be")
    finally:
        stage.tear_down()
    tally = stage.tally()
    exceptions = {name: count for name, count in tally.items() if name.startswith("exception ")}
    return Outcome(
        plan=plan,
        verdict=verdict,
        faults=dict(tally - Counter(exceptions)),
        skipped=stage.injector.skipped,
        exceptions=exceptions,
        load_seconds=load_seconds,
        drain_seconds=drained.seconds,
        mails_seconds=drained.mails_seconds,
        redriven=drained.redriven,
        crashed=len(drained.crashed),
        poison_sent=stage.injector.poisoned,
        poison_rejected=rejected,
    )


def _observed(stage: Stage, drained: Drained) -> Observed:
    provider = stage.provider
    accepted, attempts = ([(at, UUID(job)) for at, job in some] for some in (provider.accepted, provider.attempts))
    return Observed(accepted, attempts, stage.load.places, drained.crashed)


def _play(stage: Stage, plan: Plan) -> None:
    """Order the jobs, and bring each fault about when its share of them has been ordered."""
    pending = list(plan.faults)

    def progress(ordered: int) -> None:
        while pending and ordered >= pending[0].at * plan.jobs:
            stage.injector.bring_about(pending.pop(0).fault)

    stage.load.run(plan.jobs, progress)
    stage.injector.wait()
    stage.load.settle_doubts()
    stage.calm()


def _drain(stage: Stage) -> Drained:
    """Wait for every job to end, redriving the dead, until nothing has moved for too long."""
    calm = None
    started = moved = time.monotonic()
    drained, ended, redriven = 0.0, -1, 0
    crashed: dict[UUID, float] = {}
    while True:
        patience = PATIENCE_SECONDS
        try:
            with stage.load.engine.begin() as tx:
                calm = calm or tx.execute(NOW).scalar_one()
                left = tx.execute(LEFT, {"calm": calm}).one()
                dead = [row for row in tx.execute(DEAD) if stage.load.ordered.get(row.id) is not Kind.GIVEN_UP]
                revived = redrive(tx, [row.id for row in dead]).revived if dead else []
        except Exception as error:
            if not is_outage(error):
                raise
        else:
            now = time.monotonic()
            redriven += len(revived)
            crashed = {row.id: row.died for row in dead if row.error_class == "Crashed"} | crashed
            if left.ended != ended:
                ended, moved = left.ended, now
            if left.work or dead:
                drained = now - started
            if left.doubted:
                patience += DOUBT.total_seconds()
                stage.load.trickle()
            elif not left.open and not dead:
                return Drained(drained, now - started, redriven, crashed)
        now = time.monotonic()
        if now - moved > patience or now - started > DRAIN_LIMIT_SECONDS:
            return Drained(drained, now - started, redriven, crashed)
        time.sleep(POLL_SECONDS)
