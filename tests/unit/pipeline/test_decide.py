"""What follows from how a run ended: for every outcome, on both kinds of queue, whatever the delays."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.catalog import JobType
from functions.core.job import CLOSED, TRANSITIONS, ClaimedJob, State
from functions.core.outcome import LONGEST_DELAY_SECONDS, Continue, Done, GiveUp, Outcome, Retry, Skipped, Snooze
from functions.core.retry import MAX_VISIBILITY_DELAY_SECONDS, RetryPolicy
from functions.pipeline.decide import (
    ERROR_LIMIT,
    TRACEBACK_LIMIT,
    Acknowledge,
    Decision,
    HandBack,
    decide,
    release,
)

ATTEMPTS = 5
JOB_TYPE = JobType("t", "q", "p:P", "p:perform", RetryPolicy(ATTEMPTS, base_seconds=10, cap_seconds=600))
LONGEST_VISIBILITY_SECONDS = 43_200
NAMES_OF_ATTEMPTS = {None, "failed", "lost", "snoozed", "continued", "released", "gave_up"}
"""What table job_attempts accepts, and no row at all."""
LATER = datetime(2030, 1, 1, tzinfo=UTC)

JOB = ClaimedJob(
    id=uuid4(),
    type="t",
    tenant_id=None,
    payload={},
    attempts=0,
    runs=1,
    lost=0,
    correlation_id="c",
    checkpoint=None,
    waited_seconds=0.0,
)

plain = st.text(st.characters(exclude_characters="\x00", codec="utf-8"))
outcomes: st.SearchStrategy[Any] = st.one_of(
    st.builds(Done, st.none() | st.dictionaries(plain, st.integers() | plain)),
    st.builds(Skipped, st.text()),
    st.builds(Continue, st.dictionaries(plain, st.integers()), st.none() | st.floats(0, 1)),
    st.builds(Retry, st.text(), st.none() | st.floats(max_value=LONGEST_DELAY_SECONDS)),
    st.builds(Snooze, st.datetimes(timezones=st.just(UTC)), st.text()),
    st.builds(GiveUp, st.text()),
    st.builds(RuntimeError, st.text()),
    st.none() | st.integers() | st.text(),
)


def ending(outcome: object, *, attempts: int = 0, fifo: bool = False, job_type: JobType = JOB_TYPE) -> Decision:
    job = replace(JOB, attempts=attempts)
    return decide(job, outcome, job_type=job_type, fifo=fifo, rng=random.Random(7))


@given(outcomes, st.integers(0, ATTEMPTS + 2), st.booleans())
def test_no_ending_loses_the_job_or_sends_it_twice(outcome: object, attempts: int, fifo: bool) -> None:
    found = ending(outcome, attempts=attempts, fifo=fifo)
    settlement, message = found.settlement, found.message
    acknowledged = isinstance(message, Acknowledge)
    if settlement.state in CLOSED:
        assert acknowledged
        assert not settlement.resend
    else:
        # Either this message comes again or the relay sends another: one of the two, never both.
        assert settlement.resend == acknowledged


@given(outcomes, st.integers(0, ATTEMPTS + 2), st.booleans())
def test_every_ending_is_one_that_the_ledger_and_sqs_accept(outcome: object, attempts: int, fifo: bool) -> None:
    found = ending(outcome, attempts=attempts, fifo=fifo)
    settlement, message = found.settlement, found.message
    assert settlement.state in TRANSITIONS[State.ACTIVE]
    assert settlement.attempt in NAMES_OF_ATTEMPTS
    assert (settlement.attempt is None) == (settlement.state is State.COMPLETED)
    for text in (settlement.error_class, settlement.error, settlement.traceback):
        assert text is None or b"\x00" not in text.encode()
    if isinstance(message, HandBack):
        assert isinstance(message.seconds, int)
        assert 0 <= message.seconds <= LONGEST_VISIBILITY_SECONDS


@given(outcomes, st.integers(0, ATTEMPTS + 2))
def test_on_a_fifo_queue_only_a_dead_message_is_handed_back(outcome: object, attempts: int) -> None:
    found = ending(outcome, attempts=attempts, fifo=True)
    assert isinstance(found.message, HandBack) == (found.settlement.state is State.DEAD)


@given(outcomes, st.integers(0, ATTEMPTS + 2), st.booleans())
def test_only_a_failure_of_the_job_counts_as_an_attempt(outcome: object, attempts: int, fifo: bool) -> None:
    counted = ending(outcome, attempts=attempts, fifo=fifo).settlement.counted
    assert counted == (not isinstance(outcome, Done | Skipped | Continue | Snooze))


@pytest.mark.parametrize("fifo", [False, True])
def test_done_completes_with_its_result(fifo: bool) -> None:
    found = ending(Done({"clients": 3}), fifo=fifo)
    assert (found.settlement.state, found.settlement.result) == (State.COMPLETED, {"clients": 3})
    assert found.message == Acknowledge()


def test_skipped_completes_and_says_why() -> None:
    settlement = ending(Skipped("the tenant was deleted")).settlement
    assert (settlement.state, settlement.result) == (State.COMPLETED, {"skipped": "the tenant was deleted"})


@pytest.mark.parametrize("fifo", [False, True])
def test_a_step_goes_on_in_a_new_delivery_from_its_checkpoint(fifo: bool) -> None:
    found = ending(Continue({"page": 4}, 0.5), fifo=fifo)
    assert (found.settlement.state, found.settlement.resend) == (State.WAITING, True)
    assert (found.settlement.checkpoint, found.settlement.progress) == ({"page": 4}, 0.5)


def test_a_step_that_names_an_instant_waits_for_it_in_the_ledger() -> None:
    found = ending(Continue({"page": 4}, until=LATER)).settlement
    assert (found.state, found.resend, found.until, found.checkpoint) == (State.DELAYED, True, LATER, {"page": 4})


@pytest.mark.parametrize("fifo", [False, True])
def test_a_snooze_waits_in_the_ledger(fifo: bool) -> None:
    found = ending(Snooze(LATER, "quiet hours"), fifo=fifo)
    assert (found.settlement.state, found.settlement.resend, found.settlement.until) == (State.DELAYED, True, LATER)
    assert found.settlement.error == "quiet hours"


@pytest.mark.parametrize(("fifo", "attempts"), [(False, 0), (True, 0), (False, 4), (True, 4)])
def test_giving_up_is_death_at_once(fifo: bool, attempts: int) -> None:
    found = ending(GiveUp("no such client"), fifo=fifo, attempts=attempts)
    settlement = found.settlement
    assert (settlement.state, settlement.attempt, settlement.error) == (State.DEAD, "gave_up", "no such client")
    assert found.message == HandBack(0)


@pytest.mark.parametrize(
    ("delay", "waits_in_queue"),
    [(0, True), (1.2, True), (MAX_VISIBILITY_DELAY_SECONDS, True), (MAX_VISIBILITY_DELAY_SECONDS + 0.1, False)],
)
def test_a_retry_waits_in_a_standard_queue_for_up_to_a_quarter_of_an_hour_and_longer_in_the_ledger(
    delay: float, waits_in_queue: bool
) -> None:
    found = ending(Retry("busy", delay))
    assert found.settlement.state is State.RETRYING
    assert found.settlement.delay_seconds == delay
    assert found.message == (HandBack(ceil(delay)) if waits_in_queue else Acknowledge())


@given(st.floats(0, 900))
def test_a_message_never_comes_back_before_its_job_may_run(delay: float) -> None:
    message = ending(Retry("busy", delay)).message
    assert isinstance(message, HandBack)
    assert delay <= message.seconds <= delay + 1


@pytest.mark.parametrize("failure", [Retry("no"), RuntimeError("no"), None], ids=repr)
@pytest.mark.parametrize("fifo", [False, True])
def test_the_last_attempt_that_fails_is_death(failure: object, fifo: bool) -> None:
    assert ending(failure, attempts=ATTEMPTS - 2, fifo=fifo).settlement.state is State.RETRYING
    found = ending(failure, attempts=ATTEMPTS - 1, fifo=fifo)
    assert (found.settlement.state, found.settlement.attempt) == (State.DEAD, "failed")
    assert found.message == HandBack(0)


def test_an_exception_is_recorded_with_its_class_text_and_place() -> None:
    try:
        raise LookupError("no client 17")
    except LookupError as error:
        settlement = ending(error).settlement
    assert (settlement.error_class, settlement.error) == ("LookupError", "no client 17")
    assert __file__ in str(settlement.traceback)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Done({"at": timedelta(1)}), "result"),
        (Done({"share": float("nan")}), "result"),
        (Done({"share": float("inf")}), "result"),
        (Done({"text": "\x00"}), "result"),
        (Done({"\x00": "key"}), "result"),
        (Done({"text": "\ud800"}), "result"),
        (Continue({"ids": {1, 2}}), "checkpoint"),
        (Continue({"text": "\x00"}), "checkpoint"),
    ],
    ids=repr,
)
def test_what_cannot_be_kept_as_json_is_the_jobs_own_failure_not_its_neighbours(outcome: Outcome, what: str) -> None:
    settlement = ending(outcome).settlement
    assert (settlement.state, settlement.error_class) == (State.RETRYING, "TypeError")
    assert str(settlement.error).startswith(f"the {what} of the outcome is not JSON")


def test_a_result_may_speak_of_nul() -> None:
    assert ending(Done({"regex": "\\u0000"})).settlement.state is State.COMPLETED


@pytest.mark.parametrize("wrong", [None, "done", {"status": "ok"}, Done, [Done()]], ids=repr)
def test_a_value_that_is_no_outcome_is_the_jobs_own_failure_and_says_which_handler(wrong: object) -> None:
    settlement = ending(wrong).settlement
    assert settlement.error_class == "TypeError"
    assert settlement.error == f"p:perform returned {type(wrong).__name__}, not an outcome"


@pytest.mark.parametrize("text", ["a\x00b", "half \ud800 a pair", "x" * (ERROR_LIMIT + 1)], ids=repr)
@pytest.mark.parametrize("outcome", [Retry, GiveUp, Skipped, RuntimeError, lambda reason: Snooze(LATER, reason)])
def test_no_reason_is_too_strange_to_be_stored(outcome: Any, text: str) -> None:
    settlement = ending(outcome(text)).settlement
    kept = str(settlement.error if settlement.result is None else settlement.result["skipped"])
    assert "\x00" not in kept
    assert 0 < len(kept.encode()) <= ERROR_LIMIT


def test_a_deep_traceback_keeps_its_end() -> None:
    def dig(depth: int) -> None:
        if depth:
            dig(depth - 1)
        raise RuntimeError("at the bottom")

    try:
        dig(300)
    except RuntimeError as error:
        settlement = ending(error).settlement
    assert len(str(settlement.traceback)) <= TRACEBACK_LIMIT
    assert "at the bottom" in f"{settlement.traceback}{settlement.error}"


def test_an_error_that_cannot_even_say_what_it_is_does_not_take_the_batch_down() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert ending(Broken()).settlement.error_class == "Broken"


def test_a_release_costs_nothing_and_comes_again_at_once() -> None:
    found = release(JOB, "no time left")
    assert (found.settlement.state, found.settlement.counted, found.settlement.resend) == (State.WAITING, False, False)
    assert found.message == HandBack(0)
