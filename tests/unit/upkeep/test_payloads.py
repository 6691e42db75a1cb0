"""The contracts of the upkeep jobs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from functions.upkeep.payloads import Probe


def test_a_probe_that_is_told_nothing_succeeds_at_once() -> None:
    plain = {"note": "", "fail_runs": 0, "crash_runs": 0, "give_up": False, "sleep_seconds": 0}
    assert Probe().model_dump(mode="json") == plain


@pytest.mark.parametrize(
    ("field", "edges", "beyond"),
    [
        ("fail_runs", (0, 1000), (-1, 1001)),
        ("crash_runs", (0, 1000), (-1, 1001)),
        ("sleep_seconds", (0, 900), (-0.1, 900.1, float("nan"), float("inf"))),
        ("note", ("", "n" * 200), ("n" * 201,)),
    ],
)
def test_each_order_has_its_bounds(field: str, edges: tuple[Any, ...], beyond: tuple[Any, ...]) -> None:
    for value in edges:
        assert getattr(Probe.model_validate({field: value}), field) == value
    for value in beyond:
        with pytest.raises(ValidationError, match=field):
            Probe.model_validate({field: value})


def test_a_misspelt_order_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ValidationError, match="fail_run\n"):
        Probe.model_validate({"fail_run": 3})
