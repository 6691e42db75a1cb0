"""`GET /audit`: what operators did, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from functions.api import auth, paging
from functions.api.models import Page, View
from functions.api.paging import DEFAULT_LIMIT, Cursor, Limit
from functions.api.routing import Instant, Word, new_router
from functions.db.engine import transaction

router = new_router()

ROWS_LOOKED_AT = 20_000
"""A page looks no further: with a rare filter it is short, or empty, and has a cursor to go on."""

TOP = text("SELECT coalesce(max(id), 0) + 1 FROM operator_actions")

LIST = text("""
    SELECT id, at, actor, token_id, role, action, target, tenant_id, request, before, after, result
    FROM operator_actions
    WHERE id < :top AND id >= :bottom
      AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
      AND (CAST(:actor AS text) IS NULL OR actor = :actor)
      AND (CAST(:action AS text) IS NULL OR action = :action)
      AND (CAST(:target AS text) IS NULL OR target = :target)
      AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR at < :until)
    ORDER BY id DESC LIMIT :limit
""")


class Action(View):
    """One action of an operator."""

    id: int
    at: datetime
    actor: str
    token_id: UUID | None
    role: str
    action: str
    target: str
    tenant_id: UUID | None
    request: Any
    before: Any
    after: Any
    result: str


@router.get("/audit", summary="Operators' actions", tags=["Audit"])
def audit(
    *,
    actor: Word = None,
    action: Word = None,
    target: Word = None,
    tenant_id: UUID | None = None,
    since: Instant = None,
    until: Instant = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Action]:
    """Who did what to which, with before and after. A token of one tenant sees that tenant's."""
    auth.require("operator")
    filters = {
        "actor": actor,
        "action": action,
        "target": target,
        "tenant_id": auth.scope(tenant_id),
        "since": since,
        "until": until,
    }
    position = paging.decode(["audit", filters], cursor, int)
    with transaction() as tx:
        top = position[0] if position else tx.execute(TOP).scalar_one()
        bottom = max(top - ROWS_LOOKED_AT, 0)
        rows = tx.execute(LIST, {**filters, "top": top, "bottom": bottom, "limit": limit}).all()
    last = rows[-1].id if len(rows) == limit else bottom
    return Page(
        items=[Action.model_validate(row._asdict()) for row in rows],
        next_cursor=paging.encode(["audit", filters], [last]) if last > 1 else None,
    )
