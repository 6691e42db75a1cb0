"""Rows that an earlier release stored, beyond every limit, are shown as far as they can be, and hide nobody else's."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine

from functions.api import app
from tests.api import Ask, execute, ids_of, ordered, probes

pytestmark = pytest.mark.usefixtures("queue_prefix")

UNBOUND = "ALTER TABLE jobs DROP CONSTRAINT jobs_instants, DROP CONSTRAINT jobs_correlation_id_size"
"""As before there were limits."""
INSTANTS = ("infinity", "-infinity", "0044-03-15 12:00:00 BC", "0001-01-01", "10000-01-01", "294276-12-31")
COLUMNS = ("run_at", "deadline_at", "created_at", "sent_at", "started_at")


def test_any_instant_in_a_row_is_listed_and_shown(database: Engine, ask: Ask) -> None:
    execute(database, UNBOUND)
    ids = ordered(database, *probes(len(INSTANTS) + 1))
    for job_id, instant in zip(ids, INSTANTS, strict=False):
        changes = ", ".join(f"{column} = CAST(:instant AS timestamptz)" for column in COLUMNS)
        execute(database, f"UPDATE jobs SET {changes} WHERE id = :id", instant=instant, id=job_id)
    assert ids_of(ask("GET", "/jobs/upkeep")) == [str(job_id) for job_id in reversed(ids)]
    for job_id, instant in zip(ids, INSTANTS, strict=False):
        answer = ask("GET", f"/jobs/upkeep/{job_id}")
        assert answer.status == 200, instant
        assert answer.json["run_at"][:4] == ("1000" if instant in {"-infinity", INSTANTS[2], INSTANTS[3]} else "9000")


def test_what_is_too_large_is_not_shown_and_says_so(database: Engine, ask: Ask) -> None:
    execute(database, UNBOUND)
    [job_id, *_] = ordered(database, *probes(3))
    execute(
        database,
        "UPDATE jobs SET correlation_id = repeat('c', 1100000),"
        " payload = jsonb_build_object('note', repeat('é', 7000000)),"
        " checkpoint = to_jsonb(repeat('x', 300000)), error = repeat('e', 100000) WHERE id = :id",
        id=job_id,
    )
    assert len(ids_of(ask("GET", "/jobs/upkeep"))) == 3
    answer = ask("GET", f"/jobs/upkeep/{job_id}")
    assert answer.status == 200
    assert answer.json["payload"] == "not shown: it has 14000012 bytes, and at most 262144 are shown"
    assert answer.json["checkpoint"] == "not shown: it has 300002 bytes, and at most 262144 are shown"
    assert (len(answer.json["correlation_id"]), len(answer.json["error"])) == (256, 2000)


@pytest.mark.parametrize("letter", ["é", "\U0001f389", '"'])
def test_the_largest_job_that_can_be_stored_is_within_what_lambda_returns(
    database: Engine, ask: Ask, letter: str
) -> None:
    [job_id] = ordered(database, *probes(1))
    execute(
        database,
        "UPDATE jobs SET payload = jsonb_build_object('x', repeat(:letter, 262000 / octet_length(:letter) / 2)),"
        " checkpoint = payload WHERE id = :id",
        id=job_id,
        letter=letter,
    )
    execute(
        database,
        "INSERT INTO job_attempts (job_id, run, outcome, counted, error, traceback) SELECT :id, n, 'failed', true,"
        " repeat(:letter, 2000), repeat(:letter, 8000) FROM generate_series(1, 300) AS n",
        id=job_id,
        letter=letter,
    )
    answer = ask("GET", f"/jobs/upkeep/{job_id}", role="admin")
    assert len(json.dumps(json.dumps(answer.json))) < app.LARGEST_ANSWER or answer.status == 500
    assert answer.json.get("detail", "").startswith("the answer is larger") or answer.status == 200
