"""How a run ends: the values a handler returns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest

from functions.core.outcome import LONGEST_DELAY_SECONDS, UNDONE, Continue, Done, Outcome, Retry, Skipped, Snooze


def test_a_snooze_says_when_with_a_time_zone() -> None:
    until = datetime(2026, 11, 24, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"Snooze\.until must be an aware datetime"):
        Snooze(until.replace(tzinfo=None), "quiet hours")
    assert Snooze(until, "quiet hours").until == until


def test_a_step_that_waits_says_until_when_with_a_time_zone() -> None:
    with pytest.raises(ValueError, match=r"Continue\.until must be an aware datetime"):
        Continue({}, until=datetime(2026, 11, 24))  # noqa: DTZ001 - the very mistake


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan"), float("inf")])
def test_progress_is_a_share(progress: float) -> None:
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        Continue({}, progress)


@pytest.mark.parametrize("delay", [LONGEST_DELAY_SECONDS + 1, float("nan"), float("inf")])
def test_a_retry_waits_no_longer_than_a_year(delay: float) -> None:
    with pytest.raises(ValueError, match="at most a year"):
        Retry("busy", delay)


def test_an_ending_either_keeps_its_writes_or_is_undone() -> None:
    kept = set(get_args(Outcome)) - set(UNDONE)
    assert kept == {Done, Skipped, Continue}


def test_a_plain_done_orders_nothing_and_keeps_no_result() -> None:
    assert (Done().result, list(Done().enqueue)) == (None, [])
