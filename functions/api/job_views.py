"""Jobs as the API shows them: what a role may not read is masked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy import Row

from functions.api.identity import Caller, Role
from functions.api.links import Links, links_of
from functions.api.models import View
from functions.core.catalog import CATALOG
from functions.core.job import State
from functions.pipeline import observe

FREE_TEXT = frozenset({"file_name", "label", "message", "note", "text"})
"""Fields in which people write, besides those that logs redact."""


class JobSummary(View):
    """A job in a list."""

    id: UUID
    queue: str
    type: str
    state: State
    tenant_id: UUID | None
    created_at: datetime
    run_at: datetime = Field(description="Not before this.")
    started_at: datetime | None = Field(description="When its latest run began.")
    died_at: datetime | None
    closed_at: datetime | None = Field(description="When it was completed or cancelled.")
    attempts: int = Field(description="Runs that ended in its own failure, since the last redrive.")
    max_attempts: int | None
    runs: int = Field(description="Runs in its whole life.")
    lost: int = Field(description="Runs whose worker vanished.")
    progress: float | None
    error_class: str | None
    error: str | None
    correlation_id: str


class Relative(View):
    """A job that this one came from, or that came from it."""

    id: UUID
    queue: str
    type: str
    state: State


class Run(View):
    """A run that did not complete the job."""

    run: int
    outcome: str
    counted: bool = Field(description="Whether it used up an attempt.")
    started_at: datetime | None
    ended_at: datetime
    error_class: str | None
    error: str | None
    traceback: str | None = Field(description="For operators.")


class Event(View):
    """Something that happened to the job."""

    at: datetime
    event: str
    detail: str | None = None


class JobDetail(JobSummary):
    """All there is to know of a job. Only administrators see personal data, and nobody a link that signs one in."""

    priority: int
    group_key: str | None
    dedup_key: str | None
    deadline_at: datetime | None
    delivery: int
    sent_at: datetime | None
    lease_until: datetime | None
    payload: Any
    result: Any
    checkpoint: Any
    parent: Relative | None
    children: list[Relative] = Field(description="The first 200.")
    root_id: UUID | None
    pending_parents: int = Field(description="Jobs that it still waits for.")
    attempts_log: list[Run] = Field(description="The latest runs that did not complete it, oldest first.")
    timeline: list[Event]
    links: Links


def summary(row: Row[Any], caller: Caller) -> JobSummary:
    """A row as a list shows it."""
    return JobSummary.model_validate(_common(row, caller))


def detail(row: Row[Any], attempts: Sequence[Row[Any]], relatives: Sequence[Row[Any]], caller: Caller) -> JobDetail:
    """A row, its attempts and its relatives as the job's own page shows them."""
    kin = [(found.relation, Relative.model_validate(found._asdict())) for found in relatives]
    runs = [_run(found, caller) for found in attempts]
    shown = {name: mask(getattr(row, name), row.type, caller) for name in ("payload", "result", "checkpoint")}
    return JobDetail.model_validate(
        row._asdict()
        | _common(row, caller)
        | shown
        | {
            "group_key": _text(row.group_key, caller),
            "dedup_key": _text(row.dedup_key, caller),
            "attempts_log": runs,
            "timeline": _timeline(row, runs),
            "links": links_of(row),
            "parent": next((job for relation, job in kin if relation == "parent"), None),
            "children": [job for relation, job in kin if relation == "child"],
        }
    )


def mask(value: Any, job_type: str, caller: Caller) -> Any:
    """What of a payload, a result or a checkpoint the caller may read."""
    known = CATALOG.job_types.get(job_type)
    hidden = frozenset(known.forgets if known else ())  # what is to be forgotten is shown to nobody
    if caller.may(Role.ADMIN):
        return _hide(value, hidden)
    return observe.redact(_hide(value, hidden | FREE_TEXT))


def _common(row: Row[Any], caller: Caller) -> dict[str, Any]:
    job_type = CATALOG.job_types.get(row.type)
    return row._asdict() | {
        "max_attempts": job_type and job_type.retry.max_attempts,
        "error": _text(row.error, caller),
    }


def _run(row: Row[Any], caller: Caller) -> Run:
    traceback = row.traceback if caller.may(Role.OPERATOR) else None
    return Run.model_validate(row._asdict() | {"error": _text(row.error, caller), "traceback": traceback})


def _text(value: str | None, caller: Caller) -> str | None:
    """Words of the job's or its producer's, which may quote an address."""
    return value if value is None or caller.may(Role.ADMIN) else str(observe.redact(value))


def _hide(value: Any, fields: frozenset[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: observe.REDACTED if key in fields else _hide(item, fields) for key, item in value.items()}
    return [_hide(item, fields) for item in value] if isinstance(value, list) else value


def _timeline(row: Row[Any], runs: Sequence[Run]) -> list[Event]:
    events = [Event(at=row.created_at, event="ordered")]
    if row.sent_at is not None:
        events.append(Event(at=row.sent_at, event="sent", detail=f"delivery {row.delivery}"))
    for run in runs:
        if run.started_at is not None:
            events.append(Event(at=run.started_at, event="started", detail=f"run {run.run}"))
        said = ": ".join(part for part in (run.error_class, run.error) if part)
        events.append(Event(at=run.ended_at, event=run.outcome, detail=said or None))
    if row.started_at is not None and row.runs > (runs[-1].run if runs else 0):
        events.append(Event(at=row.started_at, event="started", detail=f"run {row.runs}"))
    if row.died_at is not None:
        events.append(Event(at=row.died_at, event="died"))
    if row.closed_at is not None:
        events.append(Event(at=row.closed_at, event=row.state))
    return sorted(events, key=lambda event: event.at)
