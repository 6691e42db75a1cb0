"""A connection that breaks under a job's own statement is an outage, whatever the job makes of the error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from functions.core.job import Job, JobRequest
from functions.core.outcome import Done
from functions.core.resolve import resolve
from tests import jobs
from tests.sql.conftest import Flow

END_OWN_SESSION = text("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def handlers() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patched:
        resolve.cache_clear()
        yield patched
    resolve.cache_clear()


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize(("name", "handler"), [("test.each", "perform"), ("test.set", "perform_set")])
def test_a_connection_that_breaks_under_a_job_costs_nobody_an_attempt(
    flow: Flow, handlers: pytest.MonkeyPatch, name: str, handler: str, neighbours: int, *, swallows: bool
) -> None:
    original = getattr(jobs, handler)
    broken = False

    def breaks_once(some: Any, tx: Connection) -> Any:
        nonlocal broken
        if broken:
            return original(some, tx)
        broken = True
        try:
            tx.execute(END_OWN_SESSION)
        except Exception:
            if not swallows:
                raise
        return Done() if isinstance(some, Job) else [Done() for _ in some]

    handlers.setattr(jobs, handler, breaks_once)
    ids = flow.order(*(JobRequest(name, {}) for _ in range(1 + neighbours)))
    flow.relay()
    messages = flow.receive()
    assert sorted(flow.deliver(messages)) == sorted(message["MessageId"] for message in messages)
    for job_id in ids:
        assert (flow.job(job_id).attempts, flow.job(job_id).state) == (0, "waiting")
        assert flow.attempts(job_id) == [(1, "released", False)]
    assert flow.deliver(messages) == []
    assert {flow.job(job_id).state for job_id in ids} == {"completed"}
    assert flow.effects() == dict.fromkeys(ids, 1)
