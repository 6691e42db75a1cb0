"""`/jobs`: find jobs, look at one, order one."""

from __future__ import annotations

import json
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from pydantic import AwareDatetime, Field
from sqlalchemy import Connection, text

from functions.api import actions, auth, paging, problems
from functions.api.identity import Caller, Role
from functions.api.job_queries import JobFilter, attempts_of, find_job, list_jobs, relatives_of
from functions.api.job_views import JobDetail, JobSummary, detail, summary
from functions.api.models import Body, Page, View
from functions.api.paging import DEFAULT_LIMIT, Cursor, Limit
from functions.api.routing import new_router
from functions.core.catalog import CATALOG
from functions.core.errors import InvalidPayload, UnknownJobType
from functions.core.job import JobRequest, State
from functions.core.limits import LONGEST_DEDUP_KEY, LONGEST_WAIT_SECONDS
from functions.db.engine import transaction
from functions.pipeline.enqueue import check_orders, enqueue, validate_payload

router = new_router()

IDEMPOTENCY_WINDOW = timedelta(days=1)
IDEMPOTENCY_KEY = "^[!-~]{1,200}$"
"""Printable ASCII, as a header can carry it."""

QueueName = Annotated[str, Path(max_length=80, description="A queue of the catalogue.")]
JobId = Annotated[UUID, Path()]
Word = Annotated[str | None, Query(min_length=1, max_length=200)]
Instant = Annotated[AwareDatetime | None, Query(description="With an offset, e.g. 2026-11-24T08:00:00Z.")]

# A job that has ended may have forgotten some of its payload.
STORED = text("""
    SELECT payload IN (CAST(:payload AS jsonb), CAST(:payload AS jsonb) - CAST(:forgets AS text[])) AS same
    FROM jobs WHERE id = :id
""")


def known_queue(name: str) -> str:
    """The queue's name. Raises `Problem` 404."""
    if name not in CATALOG.queues:
        raise problems.not_found()
    return name


def job_target(queue: str, job_id: UUID) -> str:
    """How the audit names a job; also its path."""
    return f"/jobs/{queue}/{job_id}"


@router.get("/jobs/<queue>", summary="Jobs of a queue", tags=["Jobs"])
def list_of_jobs(
    queue: QueueName,
    *,
    state: Annotated[State | None, Query()] = None,
    type: Word = None,  # noqa: A002 - the parameter's name
    tenant_id: Annotated[UUID | None, Query()] = None,
    error_class: Word = None,
    created_after: Instant = None,
    created_before: Instant = None,
    subject: Annotated[
        UUID | None, Query(description="What it is about: a task, an invoice, a document, a filing. Needs a tenant.")
    ] = None,
    recipient: Annotated[UUID | None, Query(description="The user or client whom a mail goes to.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[JobSummary]:
    """Newest first. A page looks at 20,000 jobs at most: with a rare filter it may be short, or empty, and go on."""
    caller = auth.require(Role.VIEWER)
    wanted = JobFilter(
        queue=known_queue(queue),
        state=state,
        type=type,
        tenant_id=auth.scope(tenant_id),
        error_class=error_class,
        created_after=created_after,
        created_before=created_before,
        subject=subject,
        recipient=recipient,
    )
    check(wanted)
    position = paging.decode(["jobs", wanted.values()], cursor, UUID)
    with transaction() as tx:
        rows, last = list_jobs(tx, wanted, before=position[0] if position else None, limit=limit)
    return Page(
        items=[summary(row, caller) for row in rows],
        next_cursor=paging.encode(["jobs", wanted.values()], [last]) if last else None,
    )


def check(wanted: JobFilter, where: str = "query") -> None:
    """Raises `Problem` 422 for filters that can match nothing as they stand."""
    if wanted.subject is not None and wanted.tenant_id is None:
        raise problems.invalid(
            f"{where}.subject", "it needs a tenant_id: a subject's id is known within its tenant alone"
        )


@router.get("/jobs/<queue>/<job_id>", summary="A job", tags=["Jobs"])
def one_job(queue: QueueName, job_id: JobId) -> JobDetail:
    """Everything about it: what it carries, each run that failed, where its log is."""
    caller = auth.require(Role.VIEWER)
    with transaction() as tx:
        return read_job(tx, known_queue(queue), job_id, caller)


def read_job(tx: Connection, queue: str, job_id: UUID, caller: Caller) -> JobDetail:
    """The job as its own page shows it. Raises `Problem` 404."""
    row = find_job(tx, queue, job_id, caller.tenant_id)
    if row is None:
        raise problems.not_found()
    return detail(row, attempts_of(tx, job_id), relatives_of(tx, row, caller.tenant_id), caller)


class Order(Body):
    """An order for a job, as `functions.core.job.JobRequest` describes it."""

    type: Annotated[str, Field(max_length=100, examples=["upkeep.probe"])]
    payload: dict[str, Any] = Field(
        examples=[{"note": "hello"}], description="As the job type's contract says: docs/jobs.md."
    )
    tenant_id: UUID | None = None
    priority: Annotated[int, Field(ge=-1, le=1)] = 0
    run_at: AwareDatetime | None = None
    delay_seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS)] | None = None
    deadline_at: AwareDatetime | None = None
    dedup_key: Annotated[str, Field(min_length=1, max_length=LONGEST_DEDUP_KEY)] | None = None
    dedup_window_seconds: Annotated[float, Field(gt=0, le=LONGEST_WAIT_SECONDS)] | None = None


class Ordered(View):
    """What became of the order."""

    id: UUID
    queue: str
    created: bool = Field(description="False: an order with this key was there before, and the job is that one's.")


@router.post(
    "/jobs",
    summary="Order a job",
    tags=["Jobs"],
    status_code=int(HTTPStatus.CREATED),
    responses={201: {"description": "Ordered."}, 200: {"description": "Ordered before: the key was taken."}},
)
def order_job(
    order: Order,
    *,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=IDEMPOTENCY_KEY,
            description="The same order with the same key within a day is answered with the job of the first.",
        ),
    ] = None,
) -> Response[Ordered]:
    """201 when the job was created, 200 when its key was taken. The relay sends it within about a second."""
    caller = auth.require(Role.OPERATOR)
    request = _request(order, idempotency_key, caller)
    with transaction() as tx:
        [made] = enqueue(tx, [request])
        queue = CATALOG.job_type(request.type).queue
        if not made.created and idempotency_key is not None:
            _same_order(tx, made.id, request)
        if made.created:
            actions.record(
                tx,
                caller,
                action="job.order",
                target=job_target(queue, made.id),
                tenant_id=request.tenant_id,
                request=order.model_dump(mode="json", exclude={"payload", "dedup_key"}, exclude_none=True),
                result="done",
            )
    status = HTTPStatus.CREATED if made.created else HTTPStatus.OK
    return Response(
        int(status),
        content_type="application/json",
        body=Ordered(id=made.id, queue=queue, created=made.created),
        headers={"Location": job_target(queue, made.id)},
    )


def _request(order: Order, idempotency_key: str | None, caller: Caller) -> JobRequest:
    values = order.model_dump()
    if idempotency_key is not None:
        for name in ("dedup_key", "dedup_window_seconds"):
            if values[name] is not None:
                raise problems.invalid(
                    f"body.{name}", "an Idempotency-Key is a dedup_key for a day: give one of the two"
                )
        values |= {
            "dedup_key": f"idempotency/{caller.token_id}/{idempotency_key}",
            "dedup_window_seconds": IDEMPOTENCY_WINDOW.total_seconds(),
        }
    values["tenant_id"] = auth.scope(order.tenant_id)
    try:
        if CATALOG.job_type(order.type).system and caller.tenant_id is not None:
            raise problems.forbidden("jobs of this type concern every tenant; the token is of one")
        values["payload"] = validate_payload(order.type, order.payload).model_dump(mode="json")
        request = JobRequest(**values)
        check_orders([request])
        return request
    except UnknownJobType as error:
        raise problems.invalid("body.type", str(error)) from None
    except InvalidPayload as error:
        raise problems.invalid("body.payload", str(error)) from None
    except ValueError as error:
        raise problems.invalid("body", str(error)) from None


def _same_order(tx: Connection, job_id: UUID, request: JobRequest) -> None:
    forgets = list(CATALOG.job_type(request.type).forgets)
    values = {"id": job_id, "payload": json.dumps(request.payload), "forgets": forgets}
    found = tx.execute(STORED, values).one_or_none()
    if found is not None and not found.same:
        raise problems.invalid("header.Idempotency-Key", "it was used for another payload within the last day")
