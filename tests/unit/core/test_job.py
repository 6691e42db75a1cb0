"""What a job is: legal moves, and orders that make sense."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from functions.core.job import CLOSED, TRANSITIONS, JobRequest, State

AWARE = datetime(2026, 11, 24, 2, tzinfo=UTC)
NAIVE = AWARE.replace(tzinfo=None)


def _reachable(start: State) -> set[State]:
    found: set[State] = set()
    border = {start}
    while border:
        found |= border
        border = {after for state in border for after in TRANSITIONS[state]} - found
    return found


def test_every_state_has_its_line_of_legal_moves() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("state", State)
def test_no_state_moves_to_itself(state: State) -> None:
    assert state not in TRANSITIONS[state]


def test_nothing_leaves_a_closed_state_and_everything_leaves_an_open_one() -> None:
    assert {state for state in State if not TRANSITIONS[state]} == CLOSED


@pytest.mark.parametrize("state", [state for state in State if state not in CLOSED])
def test_an_open_job_can_be_cancelled_and_can_complete(state: State) -> None:
    assert State.CANCELLED in TRANSITIONS[state]
    assert State.COMPLETED in _reachable(state)


def test_only_a_run_completes_a_job() -> None:
    assert {state for state in State if State.COMPLETED in TRANSITIONS[state]} == {State.ACTIVE}


def test_a_job_runs_only_from_a_state_in_which_it_may_be_sent() -> None:
    runnable = {State.WAITING, State.RETRYING, State.DELAYED}
    assert {state for state in State if State.ACTIVE in TRANSITIONS[state]} == runnable


def test_a_redrive_revives_a_dead_job_by_sending_it_again() -> None:
    assert TRANSITIONS[State.DEAD] == {State.WAITING, State.CANCELLED}


def test_an_order_says_when_in_one_way_only() -> None:
    with pytest.raises(ValueError, match="give run_at or delay_seconds, not both"):
        JobRequest("t", {}, run_at=AWARE, delay_seconds=1)


@pytest.mark.parametrize("name", ["run_at", "deadline_at"])
def test_an_instant_of_an_order_has_a_time_zone(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an aware datetime"):
        JobRequest("t", {}, **{name: NAIVE})  # type: ignore[arg-type]
    JobRequest("t", {}, **{name: AWARE})  # type: ignore[arg-type]


def test_nobody_names_a_group() -> None:
    with pytest.raises(TypeError, match="group_key"):
        JobRequest("t", {}, group_key="g")  # type: ignore[call-arg]


@pytest.mark.parametrize("priority", [-2, 2, 10])
def test_there_are_three_priorities(priority: int) -> None:
    with pytest.raises(ValueError, match="priority is 1, 0 or -1"):
        JobRequest("t", {}, priority=priority)


def test_a_window_needs_a_key_to_guard() -> None:
    with pytest.raises(ValueError, match="dedup_window_seconds needs a dedup_key"):
        JobRequest("t", {}, dedup_window_seconds=60)
    JobRequest("t", {}, dedup_key="k", dedup_window_seconds=60)
