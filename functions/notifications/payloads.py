"""The contracts of the jobs that plan notices."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel, ConfigDict


class PlanDay(BaseModel):
    """Plan what the job's tenant has to be told, or the digests that tell it, on this local date of the tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local_date: date
