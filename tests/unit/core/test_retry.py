"""The retry policy: exponential, capped, fully jittered, and finite."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.catalog import CATALOG
from functions.core.retry import Again, Exhausted, RetryPolicy, after_failure

seconds = st.floats(min_value=0.01, max_value=100_000)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    base = draw(seconds)
    return RetryPolicy(
        max_attempts=draw(st.integers(1, 2_000)),
        base_seconds=base,
        cap_seconds=base + draw(st.floats(min_value=0, max_value=100_000)),
    )


@given(policies(), st.integers(1, 5_000))
def test_the_ceiling_lies_between_base_and_cap(policy: RetryPolicy, failed: int) -> None:
    assert policy.base_seconds <= policy.ceiling_seconds(failed) <= policy.cap_seconds


@given(policies(), st.integers(1, 5_000))
def test_the_ceiling_doubles_with_each_failure_until_the_cap(policy: RetryPolicy, failed: int) -> None:
    doubled = 2 * policy.ceiling_seconds(failed)
    assert policy.ceiling_seconds(failed + 1) == pytest.approx(min(doubled, policy.cap_seconds))


@given(policies(), st.integers(1, 2_000), st.randoms(use_true_random=False))
def test_a_retry_waits_between_nothing_and_the_ceiling(policy: RetryPolicy, failed: int, rng: random.Random) -> None:
    verdict = after_failure(policy, failed, rng=rng)
    if failed >= policy.max_attempts:
        assert verdict == Exhausted()
    else:
        assert isinstance(verdict, Again)
        assert 0 <= verdict.delay_seconds <= policy.ceiling_seconds(failed)


@given(st.integers(1, 50))
def test_a_job_has_exactly_max_attempts(max_attempts: int) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)
    failed = 1
    while isinstance(after_failure(policy, failed, rng=random.Random()), Again):
        failed += 1
    assert failed == max_attempts


@given(policies(), st.floats(min_value=-10_000, max_value=10_000_000), st.integers(1, 2_000))
def test_a_wanted_delay_is_honoured_as_it_stands_but_buys_no_attempt(
    policy: RetryPolicy, wanted: float, failed: int
) -> None:
    verdict = after_failure(policy, failed, wanted_delay=wanted, rng=random.Random())
    assert verdict == (Exhausted() if failed >= policy.max_attempts else Again(max(0.0, wanted)))


def test_the_jitter_is_full() -> None:
    policy = RetryPolicy(max_attempts=10, base_seconds=100, cap_seconds=100)
    rng = random.Random(1)
    delays = []
    for _ in range(500):
        verdict = after_failure(policy, 1, rng=rng)
        assert isinstance(verdict, Again)
        delays.append(verdict.delay_seconds)
    # A tenth of the range at either end would stay empty with any narrower jitter.
    assert min(delays) < 10
    assert max(delays) > 90
    assert 40 < sum(delays) / len(delays) < 60


def test_different_jobs_wait_differently() -> None:
    policy = RetryPolicy()
    assert after_failure(policy, 3, rng=random.Random(1)) != after_failure(policy, 3, rng=random.Random(2))


@pytest.mark.parametrize(
    ("attempts", "base", "cap"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, -1, 1), (1, 2, 1)], ids=str
)
def test_a_policy_that_makes_no_sense_is_refused(attempts: int, base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="a retry policy needs"):
        RetryPolicy(max_attempts=attempts, base_seconds=base, cap_seconds=cap)


@pytest.mark.parametrize("name", sorted(CATALOG.job_types))
def test_every_job_type_is_retried_at_least_once(name: str) -> None:
    assert isinstance(after_failure(CATALOG.job_type(name).retry, 1, rng=random.Random()), Again)
