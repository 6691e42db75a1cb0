"""The record of what operators did: one row in `operator_actions`, in the transaction of the change itself.

A trigger refuses to change or remove rows; `GET /audit` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from functions.api.identity import Caller

RECORD = text("""
    INSERT INTO operator_actions (actor, token_id, role, action, target, tenant_id, request, before, after, result)
    VALUES (:actor, :token_id, :role, :action, :target, :tenant_id,
        CAST(:request AS jsonb), CAST(:before AS jsonb), CAST(:after AS jsonb), :result)
    RETURNING id
""")


def record(
    tx: Connection,
    caller: Caller,
    *,
    action: str,
    target: str,
    result: str,
    tenant_id: UUID | None = None,
    request: Mapping[str, Any] | None = None,
    before: Any = None,
    after: Any = None,
) -> int:
    """Write down an action, e.g. `job.pause` on `jobs/email/0192…`; the row's id. No personal data in it.

    `result` is a word such as `done` or `refused`. An action on several tenants' jobs has no `tenant_id`.
    """
    row = tx.execute(
        RECORD,
        {
            "actor": caller.name,
            "token_id": caller.token_id,
            "role": caller.role,
            "action": action,
            "target": target,
            "tenant_id": tenant_id,
            "request": _json(request),
            "before": _json(before),
            "after": _json(after),
            "result": result,
        },
    )
    return int(row.scalar_one())


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, default=str)
