"""The contracts of the compliance jobs."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel, ConfigDict


class ComplianceRefresh(BaseModel):
    """Refresh the scores of all clients of the job's tenant, as of the tenant's local date."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local_date: date
