from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from functions.notifications.payloads import PlanDay


def test_a_day_survives_the_ledger() -> None:
    day = PlanDay(local_date=date(2024, 2, 29))
    assert PlanDay.model_validate(day.model_dump(mode="json")) == day


@pytest.mark.parametrize(
    "payload", [{}, {"local_date": "yesterday"}, {"local_date": "2026-11-24", "tenant_id": "x"}, {"local_date": None}]
)
def test_anything_but_a_local_date_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanDay.model_validate(payload)
