"""The count after a chaos run sees a job that is lost, doubled, stuck or was never ordered."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from duecourse.chaos.load import Kind
from duecourse.chaos.verdict import Verdict, judge
from tests.harness import order, probe


def _complete(tx: Connection, *ids: UUID) -> None:
    tx.execute(
        text("UPDATE jobs SET state = 'active', claim_token = gen_random_uuid() WHERE id = ANY(:ids)"),
        {"ids": list(ids)},
    )
    tx.execute(
        text("UPDATE jobs SET state = 'completed', claim_token = NULL, closed_at = now() WHERE id = ANY(:ids)"),
        {"ids": list(ids)},
    )


def _affect(tx: Connection, *ids: UUID) -> None:
    for job_id in ids:
        tx.execute(text("INSERT INTO probe_effects (job_id) VALUES (:id)"), {"id": job_id})


def _found(verdict: Verdict) -> dict[str, int]:
    names = ("lost", "doubled_effects", "doubled_mails", "doubled_critical", "stuck", "unordered", "charged")
    return {name: count for name in names if (count := getattr(verdict, name))}


def test_all_as_it_should_be(database: Engine) -> None:
    with database.begin() as tx:
        done, mail = order(tx, probe(), probe())
        _complete(tx, done, mail)
        _affect(tx, done)
        verdict = judge(tx, {done: Kind.PLAIN, mail: Kind.MAIL}, [(0.0, mail)])
    assert verdict.ok
    assert _found(verdict) == {}
    assert (verdict.enqueued, verdict.mails) == (2, 1)


@pytest.mark.parametrize(
    ("effects", "completes", "found"),
    [
        (0, True, {"lost": 1}),
        (2, True, {"doubled_effects": 1}),
        (3, True, {"doubled_effects": 2}),
        (0, False, {"stuck": 1}),
    ],
)
def test_a_probe(database: Engine, effects: int, completes: bool, found: dict[str, int]) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        if completes:
            _complete(tx, job_id)
        _affect(tx, *[job_id] * effects)
        verdict = judge(tx, {job_id: Kind.PLAIN}, [])
    assert _found(verdict) == found
    assert not verdict.ok


@pytest.mark.parametrize(
    ("kind", "mails", "found", "ok"),
    [
        (Kind.MAIL, 0, {"lost": 1}, False),
        (Kind.MAIL, 2, {"doubled_mails": 1}, False),
        (Kind.CRITICAL, 2, {"doubled_critical": 1}, True),
    ],
)
def test_a_mail(database: Engine, kind: Kind, mails: int, found: dict[str, int], ok: bool) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        _complete(tx, job_id)
        verdict = judge(tx, {job_id: kind}, [(60.0 * n, job_id) for n in range(mails)])
    if "doubled_mails" in found:
        assert "60.0 s after the first" in verdict.examples[0]
    assert _found(verdict) == found
    assert verdict.ok is ok


def test_a_job_that_is_gone_or_ended_otherwise_is_lost(database: Engine) -> None:
    with database.begin() as tx:
        [completed] = order(tx, probe(give_up=True))
        _complete(tx, completed)
        _affect(tx, completed)
        verdict = judge(tx, {uuid4(): Kind.PLAIN, completed: Kind.GIVEN_UP}, [])
    assert _found(verdict) == {"lost": 2}
    assert any("not in the ledger" in example for example in verdict.examples)


def test_a_job_that_nobody_ordered(database: Engine) -> None:
    with database.begin() as tx:
        order(tx, probe())
        verdict = judge(tx, {}, [])
    assert _found(verdict) == {"unordered": 1}


def test_a_death_of_the_worker_must_not_cost_an_attempt(database: Engine) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        _complete(tx, job_id)
        _affect(tx, job_id)
        for run, counted in ((1, False), (2, True)):
            tx.execute(
                text("INSERT INTO job_attempts (job_id, run, outcome, counted) VALUES (:id, :run, 'lost', :counted)"),
                {"id": job_id, "run": run, "counted": counted},
            )
        verdict = judge(tx, {job_id: Kind.PLAIN}, [])
    assert _found(verdict) == {"charged": 1}
    assert verdict.runs_lost == 2
