"""The sweep waits for nobody: what an open transaction holds is left to the next sweep, and all else is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from functions.core.errors import DuecourseError
from functions.pipeline import months, sweep
from tests.jobs import request
from tests.sql.conftest import Flow

HELD = {
    "queues": "SELECT FROM queues FOR UPDATE",
    "totals": "SELECT FROM job_counts FOR UPDATE",
    "totals of runs": "SELECT FROM job_runs FOR UPDATE",
    "jobs": "SELECT FROM jobs FOR UPDATE",
    "the seal": "SELECT FROM job_seal FOR UPDATE",
    "failed logins": "SELECT FROM auth_failures FOR UPDATE",
}
PATIENCE_SECONDS = 30.0
"""For a whole sweep on a busy machine; without the rule it would last as long as the transaction."""


@pytest.mark.parametrize("held", HELD)
def test_a_sweep_beside_a_transaction_that_is_left_open_checks_and_beats(flow: Flow, held: str) -> None:
    flow.order(*[request("test.each") for _ in range(3)])
    flow.relay()
    flow.work()
    flow.order(request("test.each"))
    flow.relay()
    flow.sweep()
    flow.rows("INSERT INTO auth_failures VALUES ('here', now() - interval '2 hours', 1)")
    flow.order(request("test.each"))
    before = datetime.now(UTC)
    with flow.observer.connect() as other, other.begin(), ThreadPoolExecutor(1) as pool:
        other.execute(text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))  # no test hangs for ever
        other.execute(text(HELD[held]))
        report = pool.submit(flow.sweep).result(timeout=PATIENCE_SECONDS)
    assert (report["conservation"], report["measured"]) == (True, True)
    [beat] = flow.rows("SELECT at FROM heartbeats WHERE name = 'sweep'")
    assert beat.at >= before
    flow.sweep()
    assert flow.rows("SELECT * FROM job_count_deltas") == []
    assert flow.rows("SELECT * FROM auth_failures") == []


def test_what_tells_whether_all_is_well_is_done_before_what_may_hang(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.sweep()
    flow.rows("UPDATE heartbeats SET at = at - interval '1 hour'")

    def hang(*_: object, **__: object) -> None:
        raise SystemExit("Lambda ended it")

    for module, name in ((months, "keep_ahead"), (sweep, "resend_silent"), (months, "retire_old")):
        with monkeypatch.context() as hanging:
            hanging.setattr(module, name, hang)
            with pytest.raises(SystemExit):
                flow.sweep()
        [beat] = flow.rows("SELECT at, report FROM heartbeats WHERE name = 'sweep'")
        assert datetime.now(UTC) - beat.at < timedelta(minutes=5)
        assert beat.report["conservation"] is True


def test_a_task_that_met_a_lock_is_postponed_and_no_failure(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FOLD_RUNS", text("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE NOWAIT"))
    with flow.observer.connect() as other, other.begin():
        other.execute(text("SELECT FROM job_runs"))
        assert flow.sweep()["folded"] == "postponed"
    monkeypatch.setattr(sweep, "FOLD_RUNS", text("SELECT 1 / 0"))
    with pytest.raises(DuecourseError, match="folded"):
        flow.sweep()
