"""The redrive's contract and its checkpoint."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from functions.core.catalog import CATALOG
from functions.upkeep.payloads import Redrive
from functions.upkeep.redrive import Checkpoint

NOW = datetime(2026, 11, 24, 2, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("after", [None, uuid4()])
def test_a_checkpoint_survives_being_stored(after: Any) -> None:
    made = Checkpoint(total=5000, copies=500, died_before=NOW, next_at=NOW, after=after, revived=7, draining=True)
    assert Checkpoint.read(json.loads(json.dumps(made.write()))) == made


@pytest.mark.parametrize(
    ("revived", "looked_at", "progress"), [(0, 0, 0.0), (60, 0, 0.5), (100, 20, 1.0), (100, 90, 1.0)]
)
def test_progress_is_the_share_of_jobs_and_copies_seen_to(revived: int, looked_at: int, progress: float) -> None:
    made = Checkpoint(total=100, copies=20, died_before=NOW, next_at=NOW, revived=revived, looked_at=looked_at)
    assert made.progress == progress


def test_nothing_to_do_is_no_division_by_zero() -> None:
    assert Checkpoint(total=0, copies=0, died_before=NOW, next_at=NOW).progress == 0


@pytest.mark.parametrize("queue", CATALOG.queues)
def test_every_queue_can_be_redriven(queue: str) -> None:
    assert Redrive(queue=queue).per_second == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": "nowhere"},
        {"queue": "email", "per_second": 0},
        {"queue": "email", "per_second": 1001},
        {"queue": "email", "died_before": "2026-11-24T02:00:00"},
        {"queue": "email", "errors": "Timeout"},
    ],
)
def test_a_wrong_order_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Redrive.model_validate(wrong)
