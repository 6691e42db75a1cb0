"""Ratios: who wins, what holds, and what a missing rival means."""

from __future__ import annotations

import pytest

from duecourse.bench.measure import Figure, Ratio, Result, take_turns
from duecourse.bench.peers import PeerMissing


def result(**values: float) -> Result:
    return Result(figures={name: Figure.of([value], "jobs/s") for name, value in values.items()})


@pytest.mark.parametrize(
    ("value", "sense", "target", "ok"),
    [
        (1.5, "at least", 1.5, True),
        (1.49, "at least", 1.5, False),
        (1.3, "at most", 1.3, True),
        (1.31, "at most", 1.3, False),
        (None, "at least", 1.5, False),
        (None, "at least", None, True),
        (0.1, "at least", None, True),
    ],
)
def test_a_ratio_holds_up_to_its_target(value: float | None, sense: str, target: float | None, ok: bool) -> None:
    assert Ratio(value, "a rival", sense, target).ok is ok  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "sense", "regressed"),
    [(2.0, "at least", False), (1.9, "at least", True), (4.5, "at most", False), (4.6, "at most", True)],
)
def test_only_a_miss_beyond_the_noise_is_a_regression(value: float, sense: str, regressed: bool) -> None:
    assert Ratio(value, "a rival", sense, 3).regressed is regressed  # type: ignore[arg-type]
    assert not Ratio(None, "a rival", sense, 3).regressed  # type: ignore[arg-type]


def test_we_are_compared_with_the_best_of_theirs() -> None:
    found = result(ours=100.0, slow=10.0, fast=50.0)
    found.compare("rate", "ours", ["slow", "fast"], against="a rival", target=2)
    assert found.ratios["rate"].value == 2
    less = result(ours=6.0, slow=4.0, fast=3.0)
    less.compare("time", "ours", ["slow", "fast"], against="a rival", sense="at most", target=2)
    assert less.ratios["time"].value == 2


def test_a_target_about_a_missing_rival_is_missed_and_another_s_is_not() -> None:
    found = result(ours=100.0)
    found.compare("named", "ours", ["absent"], against="a rival", target=2)
    found.compare("informs", "ours", ["absent"], against="a rival")
    assert (found.ratios["named"].ok, found.ratios["informs"].ok) == (False, True)


def test_contestants_take_turns_and_begin_in_turn() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = Result()
    take_turns({name: lambda name=name: contestant(name) for name in "abc"}, 3, found, "s")  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert found.figures["a"] == Figure(6.0, "s", 1.0, 8.0, 3)


def test_a_contestant_that_is_not_there_is_named_with_its_reason_and_asked_once() -> None:
    asked = []

    def absent() -> float:
        asked.append(1)
        raise PeerMissing("no npm on PATH")

    found = Result()
    take_turns({"ours": lambda: 1.0, "bullmq": absent}, 3, found, "jobs/s")
    assert found.missing == {"bullmq": "no npm on PATH"}
    assert len(asked) == 1
    assert set(found.figures) == {"ours"}
