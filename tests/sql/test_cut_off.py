"""A statement of the flow's own that is cut off as an invocation ends is nobody's fault: the batch is handed back."""

from __future__ import annotations

from sqlalchemy import text

from duecourse.local.delivery import Context
from functions.core.job import JobRequest
from tests.sql.conftest import Flow

NEARLY_OVER_SECONDS = 4.0
"""Of an invocation: enough to begin, and less than the database's limit of waiting for a lock."""


def test_a_claim_that_waits_for_an_application_when_time_is_up_is_handed_back(flow: Flow) -> None:
    [job_id] = flow.order(JobRequest("test.each", {}))
    flow.relay()
    [message] = flow.receive()
    with flow.observer.connect() as application:
        application.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        assert flow.deliver([message], context=Context(NEARLY_OVER_SECONDS)) == [message["MessageId"]]
        application.rollback()
    job = flow.job(job_id)
    assert (job.state, job.runs, job.attempts) == ("waiting", 0, 0)
    assert flow.attempts(job_id) == []
