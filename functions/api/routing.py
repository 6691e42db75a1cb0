"""What the modules of routes share."""

from __future__ import annotations

from typing import Annotated

from aws_lambda_powertools.event_handler.openapi.params import Query
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from pydantic import AwareDatetime

Word = Annotated[str | None, Query(min_length=1, max_length=500)]
"""A filter by equality. Use as `type: Word = None`."""
Instant = Annotated[AwareDatetime | None, Query(description="With an offset, e.g. 2026-11-24T08:00:00Z.")]
"""Use as `since: Instant = None`."""


def new_router() -> APIGatewayHttpRouter:
    """A module's own router; `ROUTERS` in app.py names the modules."""
    return APIGatewayHttpRouter()  # type: ignore[no-untyped-call]
