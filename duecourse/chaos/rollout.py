"""A rollout: the workers of two releases side by side, which differ in what they know of one job type.

A process keeps its release for a whole batch. Half of the processes are `ahead`: they get the new release first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from functions.core.catalog import CATALOG, Catalog

if TYPE_CHECKING:
    from duecourse.chaos.saboteur import Saboteur

ADDED, MOVED = "type-added", "type-moved"
"""While the first is on, the job type is new: processes that are not ahead do not know it. While the second is on,
those that are ahead, and the ledger, have it on another queue."""
JOB_TYPE = "upkeep.probe"
OTHER_QUEUE = "notifications"


def handle(saboteur: Saboteur, serve: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`functions.pipeline.worker.handle` with the catalogue of this process's release."""
    if saboteur.on(ADDED) and not saboteur.ahead:
        saboteur.note("batch of a release that does not know a type")
        options["catalog"] = without_the_type()
    elif saboteur.on(MOVED) and saboteur.ahead:
        saboteur.note("batch of a release that has a type on another queue")
        options["catalog"] = with_the_type_moved()
    return serve(*args, **options)


@cache
def without_the_type() -> Catalog:
    """The release before the one that added the job type."""
    return _catalog(lambda rows: [row for row in rows if row.name != JOB_TYPE])


@cache
def with_the_type_moved() -> Catalog:
    """The release that has the job type on another queue."""
    return _catalog(lambda rows: [replace(row, queue=OTHER_QUEUE) if row.name == JOB_TYPE else row for row in rows])


def _catalog(change: Callable[[list[Any]], list[Any]]) -> Catalog:
    rows = change(list(CATALOG.job_types.values()))
    return Catalog(tuple(CATALOG.queues.values()), tuple(rows), ())
