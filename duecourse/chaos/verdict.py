"""Counts what came of a run: every order against the ledger, its effects, and the mails that the provider took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from duecourse.chaos.load import MISTAKEN, PROBES, Kind
from duecourse.chaos.misbehave import MISTAKES
from duecourse.chaos.turns import Place, overtaken
from functions.pipeline.conservation import conservation

JOBS = text("""
    SELECT id, type, state, error_class, error, dedup_key, extract(epoch FROM started_at)::float8 AS started,
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
FAILURES = text("""
    SELECT job_id, count(*) AS n, string_agg(DISTINCT error_class, ', ') AS classes,
           (array_agg(error ORDER BY run DESC))[1] AS last
    FROM job_attempts WHERE counted AND outcome <> 'lost' GROUP BY job_id
""")
# A run that was lost or given back is no start (turns).
BEGAN = text("""
    SELECT job_id, min(extract(epoch FROM started_at))::float8 AS at FROM job_attempts
    WHERE outcome NOT IN ('lost', 'released') GROUP BY job_id
""")
OPEN_STATES = frozenset({"blocked", "delayed", "waiting", "active", "retrying", "paused"})
EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Failures:
    """How often a job has to have failed, and in which way."""

    least: int
    most: int
    error_class: str = ""


# A probe told to fail in its first runs has failed less often where such a run was lost.
EXPECTED: Mapping[Kind, Failures] = {
    Kind.RETRIED: Failures(0, 1, "ProbeFailed"),
    Kind.REDRIVEN: Failures(0, 3, "ProbeFailed"),
    Kind.GIVEN_UP: Failures(1, 1, "GiveUp"),
    # Sent again at once when in doubt, which is an attempt.
    Kind.CRITICAL: Failures(0, 99, "Retry"),
    **{kind: Failures(1, 1, MISTAKES[kind].error_class) for kind in MISTAKEN},
}
NONE = Failures(0, 0)


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
    out_of_order: int
    """Mails that a later one of their group overtook before they had started."""
    misjudged: int
    """Jobs that were charged for what they did not do, or not for what they did."""
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
        return not any(getattr(self, name) for name in MUST_BE_ZERO) and self.conservation

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


MUST_BE_ZERO = (
    "lost", "doubled_effects", "doubled_mails", "stuck", "unordered", "charged", "out_of_order", "misjudged",
)  # fmt: skip
"""Of a verdict: each has to be 0."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the provider, the producer and the drain remember of the run's mails; instants in seconds since 1970."""

    accepted: Sequence[tuple[float, UUID]] = ()
    """When the provider took a mail, and of which job."""
    attempts: Sequence[tuple[float, UUID]] = ()
    """The same for each that was tried."""
    places: Mapping[UUID, Place] = field(default_factory=dict)
    crashed: Mapping[UUID, float] = field(default_factory=dict)
    """When jobs died of the losses of their workers, before they were redriven."""


class _Count:
    """What is wrong, how often, and some examples."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.examples: list[str] = []

    def wrong(self, what: str, who: str, why: str, times: int = 1) -> None:
        self.times[what] += times
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{what}: {who}: {why}")


def judge(tx: Connection, ordered: Mapping[UUID, Kind], observed: Observed) -> Verdict:
    """Compare what was ordered with what is there."""
    jobs = {row.id: row for row in tx.execute(JOBS)}
    effects = {row.job_id: row.n for row in tx.execute(EFFECTS)}
    failures = {row.job_id: row for row in tx.execute(FAILURES)}
    mails: dict[UUID, list[float]] = defaultdict(list)
    for at, job_id in observed.accepted:
        mails[job_id].append(at)
    count = _Count()
    kinds = _in_force(ordered, jobs)
    for job_id, kind in kinds.items():
        who, job = f"{kind} {job_id}", jobs.get(job_id)
        if job is None:
            count.wrong("lost", who, "not in the ledger")
        elif job.state in OPEN_STATES:
            count.wrong("stuck", who, job.standing)
        else:
            _check_end(count, who, kind, job)
            _check_failures(count, who, kind, failures.get(job_id), again=job_id in observed.crashed)
            if kind in PROBES:
                _check_effects(count, who, job, effects.get(job_id, 0), "doubled effects")
            elif kind is not Kind.REFRESH:
                doubled = "doubled critical" if kind is Kind.CRITICAL else "doubled mails"
                times = mails[job_id]
                apart = "".join(f", {at - times[0]:.1f} s after the first" for at in times[1:])
                _check_effects(count, who + apart, job, len(times), doubled)
    _check_others(count, [job for job_id, job in jobs.items() if job_id not in kinds and job_id not in ordered])
    _check_turns(count, tx, jobs, observed)
    history = tx.execute(HISTORY).one()
    losses = tx.execute(LOSSES).one()
    return Verdict(
        lost=count.times["lost"] + int(history.missing),
        doubled_effects=count.times["doubled effects"] + int(history.doubled),
        doubled_mails=count.times["doubled mails"],
        stuck=count.times["stuck"],
        unordered=count.times["unordered"],
        charged=losses.charged,
        out_of_order=count.times["out of order"],
        misjudged=count.times["misjudged"],
        conservation=conservation(tx).holds,
        enqueued=len(kinds),
        mails=len(observed.accepted),
        doubled_critical=count.times["doubled critical"],
        runs_lost=losses.runs,
        examples=[example for example in count.examples if not example.startswith("doubled critical")],
    )


def _in_force(ordered: Mapping[UUID, Kind], jobs: Mapping[UUID, Any]) -> dict[UUID, Kind]:
    """The orders, each under the job that does it: one whose key turned out to be another's was cancelled for it."""
    holders = {job.dedup_key: job_id for job_id, job in jobs.items() if job.dedup_key and not _is_duplicate(job)}
    found = {}
    for job_id, kind in ordered.items():
        job = jobs.get(job_id)
        found[holders.get(job.dedup_key, job_id) if job and _is_duplicate(job) else job_id] = kind
    return found


def _is_duplicate(job: Any) -> bool:
    return bool(job.state == "cancelled" and job.error_class == "Duplicate")


def _check_others(count: _Count, jobs: Sequence[Any]) -> None:
    """What nobody remembers to have ordered: the provider's events, and what was given up as a duplicate."""
    for job in jobs:
        if job.type == "email.event":
            if job.state != "completed":
                count.wrong("stuck", f"event of the provider {job.id}", job.standing)
        elif not _is_duplicate(job):
            count.wrong("unordered", f"{job.type} {job.id}", f"is {job.state}")


def _check_turns(count: _Count, tx: Connection, jobs: Mapping[UUID, Any], observed: Observed) -> None:
    heard: dict[UUID, float] = {}
    for at, job_id in observed.attempts:
        heard[job_id] = min(at, heard.get(job_id, at))
    began = {row.job_id: row.at for row in tx.execute(BEGAN)}
    for job_id, at in observed.crashed.items():
        began[job_id] = min(at, began.get(job_id, at))
    for job_id in observed.places.keys() - heard.keys() - began.keys():
        if job_id in jobs and jobs[job_id].state not in OPEN_STATES:
            began[job_id] = jobs[job_id].started or 0.0  # it ended without a word to anybody
    for found in overtaken(observed.places, heard, began):
        why = f"{found.by} was heard of {found.seconds:.1f} s before it had started"
        count.wrong("out of order", f"mail {found.job}", why)


def _check_end(count: _Count, who: str, kind: Kind, job: Any) -> None:
    expected = "dead" if kind is Kind.GIVEN_UP else "completed"
    if job.state != expected:
        count.wrong("lost", who, f"{job.state}, not {expected}: {job.error_class}: {job.error}")


def _check_failures(count: _Count, who: str, kind: Kind, found: Any, *, again: bool) -> None:
    """`again`: it died of its workers' losses in between, and was redriven with fresh attempts."""
    expected = EXPECTED.get(kind, NONE)
    n, classes = (found.n, found.classes) if found else (0, "")
    least, most = (0, expected.most * 2) if again else (expected.least, expected.most)
    if not least <= n <= most or (found and classes != expected.error_class):
        wanted = f"{expected.least} to {expected.most} with {expected.error_class}" if expected.most else "none"
        count.wrong("misjudged", who, f"failed {n} times ({classes}), not {wanted}: {found.last if found else ''}")


def _check_effects(count: _Count, who: str, job: Any, found: int, doubled: str) -> None:
    done = 1 if job.state == "completed" else 0
    if found < done:
        count.wrong("lost", who, "completed without its effect")
    elif found > done:
        count.wrong(doubled, who, f"{found} effects of a job that is {job.state}", found - done)
