"""The reckoning of costs, and that it speaks of the functions that are deployed."""

from __future__ import annotations

import pytest

from duecourse.bench import cost, prices
from duecourse.lint_template import REPOSITORY, parse


def test_the_memory_is_that_of_the_template() -> None:
    assert parse(REPOSITORY / "template.yaml")["Globals"]["Function"]["MemorySize"] == prices.MEMORY_MB


def test_computing_takes_longer_on_a_share_of_a_processor_and_waiting_does_not() -> None:
    share = prices.MEMORY_MB / prices.MEMORY_MB_OF_ONE_CPU
    assert cost.billed_milliseconds({"cpu": 4.0, "wall": 10.0}) == pytest.approx(4 / share + 6)


def test_a_million_jobs_one_at_a_time_at_list_prices() -> None:
    report = {"cpu": 0.0, "wall": 10.0}
    gb_seconds = 1_000_000 * 0.010 * prices.MEMORY_MB / 1024
    expected = 0.20 + gb_seconds * prices.LAMBDA_GB_SECOND + 3 * 0.40
    assert cost.dollars_a_million(1, report) == pytest.approx(expected)


def test_a_call_carries_ten_messages_however_large_the_batch() -> None:
    free = {"cpu": 0.0, "wall": 0.0}
    assert cost.dollars_a_million(100, free) == pytest.approx(0.20 / 100 + 3 * 0.40 / 10)
