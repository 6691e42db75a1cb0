"""Contested keys: jobs ordered under a key that another transaction had ordered and not yet committed.

An order waits a quarter of a second for that transaction. If it takes longer, the job is inserted as `blocked`, with a
row in `contested_keys`, so that nobody waits for a stranger's commit and no two transactions wait in a circle. Once the
other has ended, the job takes its key and goes on, or is cancelled with the name of the job that was first.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog

DECIDE = text("SELECT decide_contested_keys(CAST(:forgets AS jsonb))")


def decide_contested(tx: Connection, *, catalog: Catalog = CATALOG) -> int:
    """Decide the contested keys whose other transaction has ended. Returns how many; costs next to nothing at none.

    The caller commits at once: meanwhile other callers leave the keys to this one.
    """
    forgets = {row.name: row.forgets for row in catalog.job_types.values() if row.forgets}
    return int(tx.execute(DECIDE, {"forgets": json.dumps(forgets)}).scalar_one())
