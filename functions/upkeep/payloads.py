"""The contracts of the upkeep jobs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


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
