"""`GET /health`: whether this API answers and reaches its database. Needs no token, and says nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import text

from functions.api.models import View
from functions.api.routing import new_router
from functions.db.engine import transaction

router = new_router()

NOW = text("SELECT clock_timestamp() AS now")


class Health(View):
    """Alive; without the database the answer is a 503."""

    status: Literal["ok"]
    database_time: datetime


@router.get("/health", summary="Liveness", tags=["Health"])
def health() -> Health:
    """Whether the API is there and reaches its database; 503 when it does not."""
    with transaction() as tx:
        return Health(status="ok", database_time=tx.execute(NOW).scalar_one())
