"""The database holds jobs to the legal moves, and every move to the counts."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from functions.core.job import CLOSED, TRANSITIONS, State
from functions.pipeline.conservation import conservation
from functions.pipeline.sweep import FOLD
from tests.harness import states

INSERT = text("""
    INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, sent_at,
                      claim_token, died_at, closed_at)
    SELECT id, :queue, :queue || '.type', :state, '{}', 0, 'c', now(), now(),
           CASE WHEN :state = 'active' THEN gen_random_uuid() END,
           CASE WHEN :state = 'dead' THEN now() END,
           CASE WHEN :closed THEN now() END
    FROM unnest(CAST(:ids AS uuid[])) AS id
""")
MOVE = text("""
    UPDATE jobs SET state = m.state,
        claim_token = CASE WHEN m.state = 'active' THEN gen_random_uuid() END,
        died_at = CASE WHEN m.state = 'dead' THEN now() END,
        closed_at = CASE WHEN m.state IN ('completed', 'cancelled') THEN now() END
    FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[])) AS m(id, state)
    WHERE jobs.id = m.id
""")
LEGAL = {(old, new) for old, news in TRANSITIONS.items() for new in news}


def insert(tx: Connection, state: State, count: int = 1, queue: str = "q") -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    tx.execute(INSERT, {"ids": ids, "state": state, "queue": queue, "closed": state in CLOSED})
    return ids


def move(tx: Connection, moves: dict[UUID, State]) -> None:
    tx.execute(MOVE, {"ids": list(moves), "states": [str(state) for state in moves.values()]})


def message_of(error: DBAPIError) -> dict[str, str]:
    details: dict[str, str] = error.orig.args[0] if error.orig else {}
    return details


def test_the_table_of_legal_moves_is_that_of_the_code(database: Engine) -> None:
    with database.begin() as tx:
        rows = {tuple(row) for row in tx.execute(text("SELECT from_state, to_state FROM job_transitions"))}
    assert rows == {(str(old), str(new)) for old, new in LEGAL}


def test_every_legal_move_is_made_and_every_other_one_refused(database: Engine) -> None:
    with database.begin() as tx:
        for old, new in permutations(State, 2):
            [job_id] = insert(tx, old)
            attempt = tx.begin_nested()
            try:
                move(tx, {job_id: new})
            except DBAPIError as error:
                attempt.rollback()
                said = message_of(error)["M"]
            else:
                said = ""
            assert said == ("" if (old, new) in LEGAL else f"illegal job transition: {old} -> {new}")
        assert conservation(tx).holds


def test_a_refusal_says_where_the_legal_moves_are_listed(database: Engine) -> None:
    with database.begin() as tx:
        [job_id] = insert(tx, State.COMPLETED)
    with pytest.raises(DBAPIError) as refused, database.begin() as tx:
        move(tx, {job_id: State.WAITING})
    assert message_of(refused.value)["H"] == "functions/core/job.py TRANSITIONS lists the legal ones"


def test_one_illegal_move_undoes_its_whole_statement(database: Engine) -> None:
    with database.begin() as tx:
        legal, illegal = insert(tx, State.WAITING) + insert(tx, State.DEAD)
    with pytest.raises(DBAPIError, match="dead -> completed"), database.begin() as tx:
        move(tx, {legal: State.ACTIVE, illegal: State.COMPLETED})
    with database.begin() as tx:
        assert states(tx) == {"waiting": 1, "dead": 1}
        assert conservation(tx).holds


def test_an_update_that_moves_nothing_is_always_legal_and_counts_nothing(database: Engine) -> None:
    with database.begin() as tx:
        for state in State:
            insert(tx, state)
        tx.execute(text("DELETE FROM job_count_deltas"))
        tx.execute(text("UPDATE jobs SET error = 'noted'"))
        assert tx.execute(text("SELECT count(*) FROM job_count_deltas")).scalar_one() == 0


@pytest.mark.parametrize(
    ("state", "column"), [("active", "claim_token"), ("dead", "died_at"), ("completed", "closed_at")]
)
def test_a_state_and_its_marks_go_together(database: Engine, state: str, column: str) -> None:
    with database.begin() as tx:
        [job_id] = insert(tx, State(state))
    with pytest.raises(DBAPIError, match="violates check constraint"), database.begin() as tx:
        tx.execute(text(f"UPDATE jobs SET {column} = NULL WHERE id = :id"), {"id": job_id})


def test_a_deleted_row_breaks_conservation(database: Engine) -> None:
    with database.begin() as tx:
        one, _ = insert(tx, State.WAITING, 2)
        assert conservation(tx).holds
        tx.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": one})
        assert not conservation(tx).holds


walks = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.sampled_from(State), st.integers(1, 4), st.sampled_from(["a", "b"])),
        st.tuples(st.just("move"), st.integers(0, 2**16)),
        st.tuples(st.just("fold")),
        st.tuples(st.just("undo")),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks, st.randoms(use_true_random=False))
def test_after_any_walk_the_counts_are_those_of_the_jobs(database: Engine, walk: list[Any], rng: Any) -> None:
    with database.connect() as tx, tx.begin() as transaction:
        where: dict[UUID, tuple[str, State]] = {}
        for step in walk:
            match step:
                case ("enqueue", state, count, queue):
                    where |= dict.fromkeys(insert(tx, state, count, queue), (queue, state))
                case ("move", share):
                    movers = [job_id for job_id, (_, state) in where.items() if state not in CLOSED]
                    chosen = [job_id for place, job_id in enumerate(movers) if share >> place & 1]
                    moves = {job_id: rng.choice(sorted(TRANSITIONS[where[job_id][1]])) for job_id in chosen}
                    move(tx, moves)
                    where |= {job_id: (where[job_id][0], state) for job_id, state in moves.items()}
                case ("fold",):
                    tx.execute(FOLD)
                case ("undo",):
                    savepoint = tx.begin_nested()
                    insert(tx, State.WAITING, 3)
                    savepoint.rollback()
        found = conservation(tx)
        assert found.holds
        assert found.enqueued == len(where)
        assert {state: n for state, n in found.states.items() if n} == Counter(state for _, state in where.values())
        counts = Counter(where.values())
        assert _counted(tx) == {pair: counts[pair] for pair in product("ab", State) if counts[pair]}
        transaction.rollback()


def _counted(tx: Connection) -> dict[tuple[str, State], int]:
    rows = tx.execute(
        text("""
            SELECT queue, state, sum(n)::int AS n
            FROM (SELECT queue, state, count AS n FROM job_counts
                  UNION ALL SELECT queue, state, delta FROM job_count_deltas) AS both_tables
            WHERE state NOT IN ('enqueued', 'pruned') GROUP BY queue, state HAVING sum(n) <> 0
        """)
    )
    return {(row.queue, State(row.state)): row.n for row in rows}
