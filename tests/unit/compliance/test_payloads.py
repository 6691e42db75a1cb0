"""The contracts of the compliance jobs."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic import ValidationError

from functions.compliance import rules
from functions.compliance.payloads import ComplianceRefresh
from functions.core.errors import InvalidPayload
from functions.pipeline.enqueue import validate_payload


def test_a_refresh_is_as_of_a_day() -> None:
    payload = ComplianceRefresh.model_validate({"local_date": "2026-11-24"})
    assert payload.local_date == date(2026, 11, 24)
    assert payload.model_dump(mode="json") == {"local_date": "2026-11-24"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"local_date": None},
        {"local_date": "yesterday"},
        {"local_date": "2026-02-30"},
        {"local_date": "2026-11-24T02:00:00"},
        {"local_date": "2026-11-24", "tenant": "x"},
    ],
    ids=str,
)
def test_anything_but_a_day_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"local_date|tenant"):
        ComplianceRefresh.model_validate(wrong)


def test_the_refusal_names_the_field_and_not_its_value() -> None:
    with pytest.raises(InvalidPayload) as refused:
        validate_payload("compliance.refresh", {"local_date": "Erika Mustermann"})
    assert str(refused.value).startswith("the payload of compliance.refresh is invalid: local_date: ")
    assert "Erika" not in str(refused.value)


def test_levels_divide_the_scores_in_their_order() -> None:
    assert 0 < rules.MEDIUM_RISK_FROM < rules.LOW_RISK_FROM < rules.FULL_SCORE
    assert rules.FULL_SCORE % rules.POINTS_PER_FINDING == 0
