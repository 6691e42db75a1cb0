"""Counts what came of a run: every order against the ledger, its effects, and the mails that the provider took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from duecourse.chaos.load import PROBES, Kind
from functions.pipeline.conservation import conservation

JOBS = text("""
    SELECT id, type, state, error_class, error,
        concat_ws(', ', state, 'run ' || runs, 'lost ' || lost, 'delivery ' || delivery,
            'due ' || round(extract(epoch FROM run_at - clock_timestamp())) || ' s',
            'sent ' || round(extract(epoch FROM sent_at - clock_timestamp())) || ' s',
            'to be sent ' || round(extract(epoch FROM outbox_at - clock_timestamp())) || ' s',
            'lease ' || round(extract(epoch FROM lease_until - clock_timestamp())) || ' s',
            'sent again after ' || extract(epoch FROM resend_after) || ' s', error) AS standing
    FROM jobs
""")
EFFECTS = text("SELECT job_id, count(*) AS n FROM probe_effects GROUP BY job_id")
HISTORY = text("""
    SELECT count(*) FILTER (WHERE n = 0) AS missing, coalesce(sum(n - 1) FILTER (WHERE n > 1), 0) AS doubled
    FROM (SELECT c.id, count(h.id) AS n FROM clients c
          LEFT JOIN compliance_score_history h ON h.tenant_id = c.tenant_id AND h.client_id = c.id
          WHERE c.tenant_id IN (SELECT tenant_id FROM jobs WHERE type = 'compliance.refresh' AND state = 'completed')
          GROUP BY c.tenant_id, c.id) AS histories
""")
LOSSES = text("""
    SELECT count(*)::integer AS runs, count(*) FILTER (WHERE counted)::integer AS charged
    FROM job_attempts WHERE outcome = 'lost'
""")
OPEN_STATES = frozenset({"blocked", "delayed", "waiting", "active", "retrying", "paused"})
EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run shows. Everything but the last block has to be 0, or true."""

    lost: int
    """Orders that are not in the ledger, did not end as they had to, or left no effect."""
    doubled_effects: int
    """Effects in the database beyond one per job, or of a job that did not complete."""
    doubled_mails: int
    """Routine mails that the provider took more than once."""
    stuck: int
    """Jobs still open long after the last fault."""
    unordered: int
    """Jobs that were never ordered: of rolled-back transactions."""
    charged: int
    """Runs that died with their worker and cost the job an attempt."""
    conservation: bool

    enqueued: int
    """Orders made, those of the provider's events not counted."""
    mails: int
    """Mails that the provider took."""
    doubled_critical: int
    """Password resets taken twice: sent again at once when in doubt, as they are meant to be."""
    runs_lost: int
    """Runs whose worker died."""
    examples: Sequence[str]
    """Of what went wrong, at most ten."""

    @property
    def ok(self) -> bool:
        wrong = (self.lost, self.doubled_effects, self.doubled_mails, self.stuck, self.unordered, self.charged)
        return not any(wrong) and self.conservation

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


class _Count:
    """What is wrong, how often, and some examples."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.examples: list[str] = []

    def wrong(self, what: str, who: str, why: str, times: int = 1) -> None:
        self.times[what] += times
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{what}: {who}: {why}")


def judge(tx: Connection, ordered: Mapping[UUID, Kind], accepted: Sequence[tuple[float, UUID]]) -> Verdict:
    """Compare what was ordered with what is there. `accepted`: when the provider took a mail, and of which job."""
    jobs = {row.id: row for row in tx.execute(JOBS)}
    effects = {row.job_id: row.n for row in tx.execute(EFFECTS)}
    mails: dict[UUID, list[float]] = defaultdict(list)
    for at, job_id in accepted:
        mails[job_id].append(at)
    count = _Count()
    for job_id, kind in ordered.items():
        who, job = f"{kind} {job_id}", jobs.get(job_id)
        if job is None:
            count.wrong("lost", who, "not in the ledger")
        elif job.state in OPEN_STATES:
            count.wrong("stuck", who, job.standing)
        else:
            _check_end(count, who, kind, job)
            if kind in PROBES:
                _check_effects(count, who, job, effects.get(job_id, 0), "doubled effects")
            elif kind is not Kind.REFRESH:
                doubled = "doubled critical" if kind is Kind.CRITICAL else "doubled mails"
                times = mails[job_id]
                apart = "".join(f", {at - times[0]:.1f} s after the first" for at in times[1:])
                _check_effects(count, who + apart, job, len(times), doubled)
    for job_id in jobs.keys() - ordered.keys():
        job = jobs[job_id]
        if job.type != "email.event":
            count.wrong("unordered", f"{job.type} {job_id}", f"is {job.state}")
        elif job.state != "completed":
            count.wrong("stuck", f"event of the provider {job_id}", job.standing)
    history = tx.execute(HISTORY).one()
    losses = tx.execute(LOSSES).one()
    return Verdict(
        lost=count.times["lost"] + int(history.missing),
        doubled_effects=count.times["doubled effects"] + int(history.doubled),
        doubled_mails=count.times["doubled mails"],
        stuck=count.times["stuck"],
        unordered=count.times["unordered"],
        charged=losses.charged,
        conservation=conservation(tx).holds,
        enqueued=len(ordered),
        mails=len(accepted),
        doubled_critical=count.times["doubled critical"],
        runs_lost=losses.runs,
        examples=[example for example in count.examples if not example.startswith("doubled critical")],
    )


def _check_end(count: _Count, who: str, kind: Kind, job: Any) -> None:
    expected = "dead" if kind is Kind.GIVEN_UP else "completed"
    if job.state != expected:
        count.wrong("lost", who, f"{job.state}, not {expected}: {job.error_class}: {job.error}")


def _check_effects(count: _Count, who: str, job: Any, found: int, doubled: str) -> None:
    done = 1 if job.state == "completed" else 0
    if found < done:
        count.wrong("lost", who, "completed without its effect")
    elif found > done:
        count.wrong(doubled, who, f"{found} effects of a job that is {job.state}", found - done)
