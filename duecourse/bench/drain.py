"""One connection that claims and settles: a process of its own, as every Lambda is. Run by the section `overhead`.

Reads `{"ids": […], "batch": n}` from its first line of input, says `ready`, and starts at the second line. Its last
line of output is `{"jobs": n, "seconds": s, "cpu_seconds": s, "slowest_batch_seconds": s}`; the first batch, which is
planned, is not among the slowest.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import text

from duecourse.bench import jobs
from functions.core.chunks import chunks
from functions.core.outcome import Done
from functions.db.engine import transaction
from functions.pipeline.decide import decide
from functions.pipeline.ledger import Reference, claim, settle
from functions.pipeline.report import tallies

LEASE_SECONDS = 60.0


def serve(ids: Sequence[UUID]) -> int:
    """Claim and settle these jobs as one batch, in two transactions as the worker does; returns how many were ours."""
    references = [Reference(job_id, 1, str(job_id), datetime.now(UTC)) for job_id in ids]
    token, rng = uuid4(), random.Random()  # noqa: S311 - the jitter of retries
    with transaction() as tx:
        alone = len(ids) == 1
        claimed = claim(tx, references, queue="bench", token=token, lease_seconds=LEASE_SECONDS, alone=alone)
    started = time.monotonic()
    job_type = jobs.CATALOG.job_type("bench.set")
    decisions = {job.id: decide(job, Done(), job_type=job_type, fifo=False, rng=rng) for job in claimed}
    message_ids = {job.id: str(job.id) for job in claimed}
    with transaction() as tx:
        counted = tallies(claimed, decisions, time.monotonic() - started)
        settlements = [item.settlement for item in decisions.values()]
        return len(settle(tx, settlements, token=token, message_ids=message_ids, tallies=counted))


def main() -> None:
    order = json.loads(sys.stdin.readline())
    ids = [UUID(item) for item in order["ids"]]
    with transaction() as tx:
        tx.execute(text("SELECT 1"))
    print("ready", flush=True)
    sys.stdin.readline()
    started, cpu = time.perf_counter(), time.process_time()
    done, batches = 0, []
    for batch in chunks(ids, order["batch"]):
        begun = time.perf_counter()
        done += serve(batch)
        batches.append(time.perf_counter() - begun)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({"jobs": done, **spent, "slowest_batch_seconds": max(batches[1:], default=0.0)}), flush=True)


if __name__ == "__main__":
    main()
