"""The catalogue: look-ups, messages, and that its rows fit together."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest
from pydantic import BaseModel

from functions.core.catalog import CATALOG, EXTRA_RECEIVES, Catalog, JobType, Queue
from functions.core.errors import UnknownJobType
from functions.core.resolve import resolve
from functions.core.retry import RetryPolicy

HALF_DAY_SECONDS = 43_200
"""SQS's longest visibility timeout."""


def _job_type(name: str, queue: str, max_attempts: int) -> JobType:
    return JobType(name, queue, "x:y", "x:z", RetryPolicy(max_attempts=max_attempts))


SMALL = Catalog(
    queues=(Queue("a", timeout_seconds=10), Queue("b", timeout_seconds=20, batch_window_seconds=3), Queue("c", 1)),
    job_types=(_job_type("a.few", "a", 2), _job_type("a.many", "a", 9), _job_type("b.one", "b", 1)),
    schedules=(),
)


def test_a_job_type_is_found_by_its_name() -> None:
    assert SMALL.job_type("a.many").retry.max_attempts == 9


def test_an_unknown_job_type_is_named_together_with_those_that_exist() -> None:
    with pytest.raises(UnknownJobType, match=r"unknown job type 'a\.none'; the catalogue has: a\.few, a\.many, b\.one"):
        SMALL.job_type("a.none")


@pytest.mark.parametrize(("queue", "most_attempts"), [("a", 9), ("b", 1), ("c", RetryPolicy().max_attempts)])
def test_sqs_gives_a_message_more_receives_than_its_job_has_attempts(queue: str, most_attempts: int) -> None:
    assert SMALL.max_receive_count(queue) == most_attempts + EXTRA_RECEIVES


def test_visibility_is_six_timeouts_and_the_window() -> None:
    assert SMALL.queues["a"].visibility_seconds == 60
    assert SMALL.queues["b"].visibility_seconds == 123


def test_a_row_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.job_type("a.few").queue = "b"  # type: ignore[misc]


@pytest.mark.parametrize("job_type", CATALOG.job_types.values(), ids=lambda row: row.name)
def test_a_job_type_travels_on_a_queue_that_exists_and_its_dotted_strings_lead_somewhere(job_type: JobType) -> None:
    assert job_type.queue in CATALOG.queues
    assert issubclass(resolve(job_type.payload), BaseModel)
    perform = resolve(job_type.perform)
    if job_type.outside_effect:
        assert all(callable(getattr(perform, step)) for step in ("prepare", "send", "record"))
    else:
        assert callable(perform)


@pytest.mark.parametrize("queue", CATALOG.queues.values(), ids=lambda row: row.name)
def test_a_queue_keeps_to_the_limits_of_sqs_and_of_its_mapping(queue: Queue) -> None:
    assert queue.visibility_seconds <= HALF_DAY_SECONDS
    assert queue.batch_size <= 10 or (not queue.fifo and queue.batch_window_seconds >= 1)
    assert 2 <= queue.max_concurrency <= 1000
    assert not (queue.fifo and queue.batch_window_seconds)


@pytest.mark.parametrize("name", sorted(CATALOG.schedules))
def test_a_schedule_plans_a_job_type_that_exists_and_catches_up_within_its_day(name: str) -> None:
    schedule = CATALOG.schedules[name]
    assert schedule.job_type in CATALOG.job_types
    assert timedelta(0) < schedule.catch_up < timedelta(hours=23)


@pytest.mark.parametrize(
    "job_type", [row for row in CATALOG.job_types.values() if row.forgets], ids=lambda row: row.name
)
def test_what_a_job_forgets_is_in_its_payload(job_type: JobType) -> None:
    fields = resolve(job_type.payload).model_fields
    assert set(job_type.forgets) <= {field.alias or name for name, field in fields.items()}
