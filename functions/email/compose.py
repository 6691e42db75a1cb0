"""What a mail says and how it looks: found in the database when it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ValidationError

from functions.core.job import Job
from functions.core.outcome import GiveUp, Outcome, Skipped
from functions.email import contents
from functions.email.kinds import Kind
from functions.email.queries import Letter, subjects
from functions.email.settings import settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from functions.notifications.queries import Notice

NOTHING_LEFT = Skipped("suppressed: nothing is left to tell")
SUBJECT_IDS: Mapping[str, str] = {
    "task_assignment": "task_id",
    "service_request_update": "service_request_id",
    "invoice": "invoice_id",
}
"""The payload's field that names what such a mail speaks of."""


def compose(
    tx: Connection, jobs: Sequence[Job[Any]], letters: Mapping[UUID, Letter], kind: Kind
) -> dict[UUID, BaseModel | Outcome]:
    """The model that each mail is rendered from, or why there is none."""
    if not jobs:
        return {}
    if kind.lists is not None:
        return _listings(tx, jobs, letters, kind)
    if kind.mail_type in SUBJECT_IDS:
        return _spoken_of(tx, jobs, letters, kind)
    return {job.id: _as_given(job, letters[job.id]) for job in jobs}


def _as_given(job: Job[Any], letter: Letter) -> BaseModel | Outcome:
    expires = getattr(job.payload, "expires_at", None)
    if expires is not None and expires <= letter.now:
        return Skipped("suppressed: the link in it has expired")
    model: BaseModel = job.payload
    return model


def _listings(
    tx: Connection, jobs: Sequence[Job[Any]], letters: Mapping[UUID, Letter], kind: Kind
) -> dict[UUID, BaseModel | Outcome]:
    from functions.notifications.queries import Ask, pending_for

    category = None if kind.lists in {"all", None} else kind.lists
    asks = []
    for job in jobs:
        letter = letters[job.id]
        if letter.tenant_id is not None:
            asks.append(
                Ask(
                    job.id,
                    letter.tenant_id,
                    job.payload.recipient_kind,
                    letter.recipient_id,
                    job.payload.local_date,
                    category,  # type: ignore[arg-type]
                )
            )
    found = pending_for(tx, asks)
    return {job.id: _items(found[job.id]) if job.id in found else NOTHING_LEFT for job in jobs}


def _items(notices: Sequence[Notice]) -> contents.Items:
    return contents.Items(
        url=settings().app_url,
        items=tuple(
            contents.Item(
                category=notice.category,
                title=notice.title,
                client_name=notice.client_name,
                due_date=notice.due_date,
                days_left=notice.days_left,
            )
            for notice in notices
        ),
    )


def _spoken_of(
    tx: Connection, jobs: Sequence[Job[Any]], letters: Mapping[UUID, Letter], kind: Kind
) -> dict[UUID, BaseModel | Outcome]:
    ids = {
        job.id: (tenant_id, getattr(job.payload, SUBJECT_IDS[kind.mail_type]))
        for job in jobs
        if (tenant_id := letters[job.id].tenant_id) is not None
    }
    found = subjects(tx, kind.mail_type, ids)
    return {job.id: _subject(job, letters[job.id], found.get(job.id), kind) for job in jobs}


def _subject(job: Job[Any], letter: Letter, row: Mapping[str, Any] | None, kind: Kind) -> BaseModel | Outcome:
    what = kind.mail_type.split("_")[0]
    if row is None:
        return GiveUp(f"the tenant has no such {what}: deleted, or another tenant's")
    if letter.kind == "client" and row["client_id"] != letter.recipient_id:
        return GiveUp(f"the {what} is another client's: this client must not read of it")
    given = {name: getattr(job.payload, name) for name in ("note", "url") if hasattr(job.payload, name)}
    fields = {name: value for name, value in row.items() if name not in {"job_id", "client_id"}}
    if kind.mail_type == "invoice":
        files = [{"file_name": file.file_name, "size": file.size} for file in job.payload.attachments]
        given["attachments"] = tuple(files)
    model = contents.CONTENTS[kind.mail_type]
    try:
        return model.model_validate(fields | given)
    except ValidationError as error:
        from functions.pipeline.envelope import describe

        return GiveUp(f"the {what} cannot be written about: {describe(error)}")
