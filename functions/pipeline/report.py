"""What the worker says of a batch: a log line per job that ended, and the metrics that docs/architecture.md lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from aws_lambda_powertools.metrics import MetricUnit

from functions.core.buckets import DURATION_BOUNDS, WAIT_BOUNDS, bucket
from functions.core.job import ClaimedJob, State
from functions.pipeline import observe
from functions.pipeline.batch import Batch
from functions.pipeline.decide import Decision
from functions.pipeline.ledger import RunTally, Settlement
from functions.pipeline.triage import Judged, Verdict


def started(claimed: Sequence[ClaimedJob], batch: Batch) -> None:
    """Count the starts and sample how long each job waited."""
    for job in claimed:
        batch.tally.add("JobsStarted", 1, job_type=job.type)
        batch.tally.add("WaitSeconds", max(0.0, job.waited_seconds), MetricUnit.Seconds, job_type=job.type)


def judged(verdicts: Sequence[Judged], batch: Batch) -> None:
    """Log and count the messages that the claim left over."""
    for verdict, count in Counter(item.verdict for item in verdicts).items():
        batch.tally.add("MessagesLeftOver", count, queue=batch.queue, verdict=str(verdict))
    for item in verdicts:
        if item.verdict in {Verdict.LOST, Verdict.CRASHED}:
            batch.tally.add("JobsLost", 1, queue=batch.queue)
        if item.verdict is Verdict.CRASHED:
            batch.tally.add("JobsDead", 1, queue=batch.queue)
        observe.logger().info("left_over", job_id=str(item.id), verdict=str(item.verdict))


def finished(claimed: Sequence[ClaimedJob], decisions: Mapping[UUID, Decision], seconds: float, batch: Batch) -> None:
    """Log and count how each run ended. Duration is the batch's share: jobs of a set have no time of their own."""
    share = seconds / len(claimed)
    for job in claimed:
        settlement = decisions[job.id].settlement
        batch.tally.add("DurationSeconds", share, MetricUnit.Seconds, job_type=job.type)
        keys = observe.job_keys(job)
        if settlement.state is State.COMPLETED:
            batch.tally.add("JobsCompleted", 1, job_type=job.type)
            observe.logger().info("job_completed", result=settlement.result, **keys)
        elif settlement.counted:
            error_class = settlement.error_class or "unknown"
            batch.tally.add("JobsFailed", 1, job_type=job.type, error_class=error_class)
            event = "job_failed"
            if settlement.state is State.DEAD:
                batch.tally.add("JobsDead", 1, job_type=job.type)
                event = "job_dead"
            observe.logger().error(
                event,
                error_class=error_class,
                error=settlement.error,
                retry_in=settlement.delay_seconds,
                **keys,
            )
        else:
            observe.logger().info(f"job_{settlement.attempt}", reason=settlement.error, **keys)


def tallies(claimed: Sequence[ClaimedJob], decisions: Mapping[UUID, Decision], seconds: float) -> list[RunTally]:
    """The batch's runs for the ledger's histograms: a row per type, ending and bucket, not per job.

    Each run counts with its share of `seconds`, as in the metrics.
    """
    share = seconds / len(claimed)
    took = bucket(share, DURATION_BOUNDS)
    ended = Counter((job.type, _outcome(decisions[job.id].settlement)) for job in claimed)
    rows = [RunTally(name, outcome, "duration", took, n, n * share) for (name, outcome), n in ended.items()]
    waits: dict[tuple[str, int], list[float]] = {}
    for job in claimed:
        waited = max(0.0, job.waited_seconds)
        waits.setdefault((job.type, bucket(waited, WAIT_BOUNDS)), []).append(waited)
    rows += [RunTally(name, "", "wait", place, len(all_), sum(all_)) for (name, place), all_ in waits.items()]
    return rows


def _outcome(settlement: Settlement) -> str:
    if settlement.state is State.COMPLETED:
        skipped = isinstance(settlement.result, Mapping) and "skipped" in settlement.result
        return "skipped" if skipped else "completed"
    if settlement.state is State.DEAD:
        return "dead"
    return settlement.attempt or str(settlement.state)


def batch_done(queue: str, messages: int, *, handed_back: int, sql: int) -> None:
    """One line per invocation, whatever happened; `sql` is the number of statements it took."""
    observe.logger().info("batch_done", queue=queue, messages=messages, handed_back=handed_back, statements=sql)
