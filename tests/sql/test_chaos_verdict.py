"""The count after a chaos run sees a job that is lost, doubled, stuck or was never ordered."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from duecourse.chaos.load import PROBES, Kind
from duecourse.chaos.turns import Place
from duecourse.chaos.verdict import MUST_BE_ZERO, Observed, Verdict, judge
from functions.core.job import JobRequest
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
    return {name: count for name in (*MUST_BE_ZERO, "doubled_critical") if (count := getattr(verdict, name))}


def _fail(tx: Connection, job_id: UUID, run: int, outcome: str, error_class: str, *, counted: bool = True) -> None:
    row = {"id": job_id, "run": run, "outcome": outcome, "counted": counted, "error_class": error_class}
    tx.execute(
        text("""
            INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, started_at)
            VALUES (:id, :run, :outcome, :counted, :error_class, to_timestamp(100 * :run))
        """),
        row,
    )


def test_all_as_it_should_be(database: Engine) -> None:
    with database.begin() as tx:
        done, mail = order(tx, probe(), probe())
        _complete(tx, done, mail)
        _affect(tx, done)
        verdict = judge(tx, {done: Kind.PLAIN, mail: Kind.MAIL}, Observed([(0.0, mail)]))
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
        verdict = judge(tx, {job_id: Kind.PLAIN}, Observed())
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
        verdict = judge(tx, {job_id: kind}, Observed([(60.0 * n, job_id) for n in range(mails)]))
    if "doubled_mails" in found:
        assert "60.0 s after the first" in verdict.examples[0]
    assert _found(verdict) == found
    assert verdict.ok is ok


def test_a_job_that_is_gone_or_ended_otherwise_is_lost(database: Engine) -> None:
    with database.begin() as tx:
        [completed] = order(tx, probe(give_up=True))
        _complete(tx, completed)
        _affect(tx, completed)
        verdict = judge(tx, {uuid4(): Kind.PLAIN, completed: Kind.GIVEN_UP}, Observed())
    assert _found(verdict) == {"lost": 2, "misjudged": 1}
    assert any("not in the ledger" in example for example in verdict.examples)


def test_a_job_that_nobody_ordered(database: Engine) -> None:
    with database.begin() as tx:
        order(tx, probe())
        verdict = judge(tx, {}, Observed())
    assert _found(verdict) == {"unordered": 1}


def test_a_death_of_the_worker_must_not_cost_an_attempt(database: Engine) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        _complete(tx, job_id)
        _affect(tx, job_id)
        _fail(tx, job_id, 1, "lost", "Lost", counted=False)
        _fail(tx, job_id, 2, "lost", "Lost")
        verdict = judge(tx, {job_id: Kind.PLAIN}, Observed())
    assert _found(verdict) == {"charged": 1}
    assert verdict.runs_lost == 2


@pytest.mark.parametrize(
    ("kind", "classes", "misjudged"),
    [
        (Kind.PLAIN, [], 0),
        (Kind.PLAIN, ["DBAPIError"], 1),
        (Kind.MAIL, ["Retry"], 1),
        (Kind.CRITICAL, ["Retry", "Retry"], 0),
        (Kind.RETRIED, ["ProbeFailed"], 0),
        (Kind.RETRIED, [], 0),
        (Kind.RETRIED, ["ProbeFailed", "ProbeFailed"], 1),
        (Kind.ENDING, ["SharedTransaction"], 0),
        (Kind.ENDING, [], 1),
        (Kind.ENDING, ["Crashed"], 1),
        (Kind.FORGETTING, ["TypeError"], 0),
        (Kind.FORGETTING, ["TypeError", "TypeError"], 1),
    ],
)
def test_a_job_is_charged_for_what_it_did_and_nothing_else(
    database: Engine, kind: Kind, classes: list[str], misjudged: int
) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        _complete(tx, job_id)
        _fail(tx, job_id, 1, "snoozed", "Snooze", counted=False)
        for run, error_class in enumerate(classes, 2):
            _fail(tx, job_id, run, "failed", error_class)
        if kind in PROBES:
            _affect(tx, job_id)
        verdict = judge(tx, {job_id: kind}, Observed([(0.0, job_id)]))
    assert _found(verdict) == ({"misjudged": 1} if misjudged else {})


def test_a_job_redriven_after_a_crash_may_fail_anew(database: Engine) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe())
        _complete(tx, job_id)
        _affect(tx, job_id)
        for run in (1, 5):
            _fail(tx, job_id, run, "failed", "SharedTransaction")
        assert _found(judge(tx, {job_id: Kind.ENDING}, Observed())) == {"misjudged": 1}
        assert _found(judge(tx, {job_id: Kind.ENDING}, Observed(crashed={job_id: 2.0}))) == {}


def test_an_order_is_done_by_the_job_that_has_its_key(database: Engine) -> None:
    """One that found its key contested is cancelled when the other is committed, and nothing is lost by that."""
    with database.begin() as tx:
        first, second, stray = order(tx, *(JobRequest("upkeep.probe", {}, dedup_key=key) for key in ("a", "b", "c")))
        tx.execute(
            text("""
                UPDATE jobs SET state = 'cancelled', closed_at = now(), error_class = 'Duplicate',
                    dedup_key = (SELECT dedup_key FROM jobs WHERE id = :first) WHERE id = ANY(:others)
            """),
            {"first": first, "others": [second, stray]},
        )
        _complete(tx, first)
        _affect(tx, first)
        assert _found(judge(tx, {second: Kind.PLAIN}, Observed())) == {}
        _affect(tx, first)
        assert _found(judge(tx, {second: Kind.PLAIN}, Observed())) == {"doubled_effects": 1}
        tx.execute(text("UPDATE jobs SET dedup_key = NULL WHERE id = :first"), {"first": first})
        assert _found(judge(tx, {first: Kind.PLAIN, second: Kind.PLAIN}, Observed()))["lost"] == 1


@pytest.mark.parametrize(
    ("attempts", "runs", "out_of_order"),
    [
        ([(350.0, 0), (360.0, 1)], [], 0),
        ([(360.0, 1), (370.0, 0)], [], 1),
        ([(360.0, 1), (370.0, 0)], ["lost"], 1),  # a lost run is no start
        ([(360.0, 1), (370.0, 0)], ["released"], 1),
        ([(360.0, 1), (370.0, 0)], ["lost", "snoozed"], 0),  # it had its turn, and now waits through the ledger
        ([(360.0, 1), (370.0, 0)], ["lost", "lost", "lost", "snoozed"], 1),
        ([(340.0, 0), (360.0, 1), (370.0, 0)], [], 0),  # it was throttled first
    ],
)
def test_the_order_of_first_starts(
    database: Engine, attempts: list[tuple[float, int]], runs: list[str], out_of_order: int
) -> None:
    with database.begin() as tx:
        mails = order(tx, probe(), probe())
        _complete(tx, *mails)
        for run, outcome in enumerate(runs, 1):
            _fail(tx, mails[0], run, outcome, outcome, counted=False)
        observed = Observed(
            accepted=[(400.0, mail) for mail in mails],
            attempts=[(at, mails[which]) for at, which in attempts],
            places={mail: Place("group", n, timed=False, due_from=n, due_until=n) for n, mail in enumerate(mails)},
        )
        verdict = judge(tx, dict.fromkeys(mails, Kind.MAIL), observed)
    assert _found(verdict) == ({"out_of_order": 1} if out_of_order else {})


def test_a_mail_that_died_of_its_workers_had_its_turn(database: Engine) -> None:
    with database.begin() as tx:
        mails = order(tx, probe(), probe())
        _complete(tx, *mails)
        observed = Observed(
            accepted=[(400.0, mail) for mail in mails],
            attempts=[(350.0, mails[1]), (400.0, mails[0])],
            places={mail: Place("group", n, timed=False, due_from=n, due_until=n) for n, mail in enumerate(mails)},
            crashed={mails[0]: 300.0},
        )
        assert _found(judge(tx, dict.fromkeys(mails, Kind.MAIL), observed)) == {}
        assert _found(judge(tx, dict.fromkeys(mails, Kind.MAIL), replace(observed, crashed={}))) == {"out_of_order": 1}
