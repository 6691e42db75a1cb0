"""The contracts of the upkeep jobs."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from functions.core.catalog import CATALOG


def _known_queue(name: str) -> str:
    if name not in CATALOG.queues:
        raise ValueError(f"no such queue; there are {', '.join(CATALOG.queues)}")
    return name


class Probe(BaseModel):
    """A job that behaves as it is told, to prove a deployment with: it succeeds unless a number says otherwise.

    Each number means "in its first so many runs"; runs are counted over the job's whole life, so a probe that fails
    as often as it has attempts dies, and completes once it is redriven.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: Annotated[str, Field(max_length=200)] = ""
    fail_runs: Annotated[int, Field(ge=0, le=1000)] = 0
    crash_runs: Annotated[int, Field(ge=0, le=1000)] = 0
    """The worker's process exits at once, as on an out-of-memory kill."""
    give_up: bool = False
    sleep_seconds: Annotated[float, Field(ge=0, le=900)] = 0


class Redrive(BaseModel):
    """Revive the dead jobs of a queue, or those that all the conditions given apply to, at a steady rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: Annotated[str, AfterValidator(_known_queue)]
    type: str | None = None
    tenant_id: UUID | None = None
    error_class: str | None = None
    died_before: AwareDatetime | None = None
    per_second: Annotated[float, Field(ge=0.1, le=1000)] = 50
    """How many jobs are sent to the queue in a second."""
