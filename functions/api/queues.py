"""`/queues`: pause and resume a queue, and redrive its dead jobs."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AwareDatetime, Field

from functions.api import actions, auth, problems
from functions.api.identity import Role
from functions.api.jobs import QueueName, job_target, known_queue
from functions.api.models import Body, View
from functions.api.routing import new_router
from functions.aws.mappings import DISABLED, ENABLED
from functions.core.job import JobRequest
from functions.db.engine import transaction
from functions.pipeline import observe, pausing, redrive
from functions.pipeline.enqueue import enqueue
from functions.pipeline.redrive import Dead

router = new_router()

REDRIVE, REDRIVE_QUEUE = "upkeep.redrive", "upkeep"
SETTLED = frozenset({"Enabled", "Disabled"})

SWITCHING: dict[int, OpenAPIResponse] = {
    200: {"description": "Done, the worker included."},
    202: {"description": "Done; AWS is still switching the worker."},
}
BEGUN: dict[int, OpenAPIResponse] = {
    200: {"description": "What it would be: a dry run."},
    202: {"description": "Begun, as a job of its own."},
}


class PauseOrder(Body):
    """Why a queue is paused."""

    reason: Annotated[str, Field(min_length=1, max_length=500)] | None = None


class MappingState(View):
    """What carries messages to the worker, as AWS describes it."""

    state: str = Field(
        description="Enabled, Disabling, Disabled, Enabling, Updating, none or unknown.", examples=["Disabling"]
    )
    detail: str | None = Field(default=None, description="What is still to come.")


class QueueState(View):
    """Whether a queue is paused."""

    queue: str
    paused: bool
    paused_at: datetime | None = None
    paused_by: str | None = None
    reason: str | None = None
    mapping: MappingState


@router.post("/queues/<queue>/pause", summary="Pause a queue", tags=["Queues"], responses=SWITCHING)
def pause_queue(queue: QueueName, order: PauseOrder) -> Response[QueueState]:
    """No job of it starts from now on, though runs under way end. 202 while AWS is still switching the worker off.

    409 when it is paused already. Neither a deployment nor the end of this process undoes a pause.
    """
    caller = auth.require(Role.OPERATOR, everywhere=True)
    with transaction() as tx:
        found = pausing.pause(tx, known_queue(queue), actor=caller.name, reason=order.reason)
        if found is not None:
            actions.record(
                tx,
                caller,
                action="queue.pause",
                target=f"/queues/{queue}",
                request=order.model_dump(),
                before={"paused": False},
                after={"paused": True},
                result="done",
            )
        else:
            now = tx.execute(pausing.STATE, {"queue": queue}).one_or_none()
    if found is None:
        by = now.paused_by if now is not None else None
        raise problems.conflict("this queue is paused already", state="paused", paused_by=by)
    row = found._asdict()
    return _answer(
        QueueState(
            queue=queue,
            paused=True,
            paused_at=row["paused_at"],
            paused_by=row["paused_by"],
            reason=row["pause_reason"],
            mapping=_switch(queue, on=False),
        )
    )


@router.post("/queues/<queue>/resume", summary="Resume a queue", tags=["Queues"], responses=SWITCHING)
def resume_queue(queue: QueueName) -> Response[QueueState]:
    """Its jobs go on, those of a FIFO group in their order. 202 while AWS is still switching the worker on.

    409 when it is not paused.
    """
    caller = auth.require(Role.OPERATOR, everywhere=True)
    with transaction() as tx:
        found = pausing.resume(tx, known_queue(queue))
        if found is not None:
            was = found._asdict()
            actions.record(
                tx,
                caller,
                action="queue.resume",
                target=f"/queues/{queue}",
                before={
                    "paused": True,
                    "since": was["paused_at"],
                    "by": was["paused_by"],
                    "reason": was["pause_reason"],
                },
                after={"paused": False},
                result="done",
            )
    if found is None:
        raise problems.conflict("this queue is not paused", state="running")
    return _answer(QueueState(queue=queue, paused=False, mapping=_switch(queue, on=True)))


def _switch(queue: str, *, on: bool) -> MappingState:
    """Switch the mapping, and say how far AWS has come. Never fails: the row decides, and the sweep follows."""
    word = "on" if on else "off"
    try:
        found = pausing.switch_mapping(queue, on=on)
    except (BotoCoreError, ClientError) as error:
        observe.logger().warning("mapping_not_switched", queue=queue, error=observe.summary(error))
        return MappingState(
            state="unknown",
            detail=f"AWS did not take it ({type(error).__name__}): the sweep will, within five minutes",
        )
    if found is None:
        return MappingState(state="none", detail="this deployment has no worker for the queue")
    if found.state in SETTLED:
        return MappingState(state=found.state)
    if found.state in (ENABLED if on else DISABLED):
        return MappingState(state=found.state, detail=f"AWS takes up to a minute to switch the worker {word}")
    return MappingState(
        state=found.state, detail=f"a change is under way; the sweep switches the worker {word} after it"
    )


def _answer(state: QueueState) -> Response[QueueState]:
    done = state.mapping.state in SETTLED | {"none"}
    status = HTTPStatus.OK if done else HTTPStatus.ACCEPTED
    return Response(int(status), content_type="application/json", body=state)


class RedriveOrder(Body):
    """Which dead jobs to revive: all of the queue, or those that every condition given applies to."""

    type: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    tenant_id: UUID | None = None
    error_class: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    died_before: AwareDatetime | None = None
    per_second: Annotated[float, Field(ge=0.1, le=1000)] = 50
    dry_run: bool = Field(default=True, description="Count only. Look at the count, then say false.")


class Redrive(View):
    """What was begun, or would be."""

    dry_run: bool
    matched: int = Field(description="Dead jobs meant.")
    key_taken: int = Field(
        description="Those among them that stay dead, since a newer job holds their deduplication key."
    )
    dead_letters: int = Field(description="Messages in the dead-letter queue, about; the stale ones among them go.")
    seconds: float = Field(description="How long sending them takes at this rate.")
    job: str | None = Field(
        default=None, description="The redrive's own job, with its progress.", examples=["/jobs/upkeep/0193…"]
    )


@router.post("/queues/<queue>/redrive", summary="Redrive dead jobs", tags=["Queues"], responses=BEGUN)
def redrive_queue(queue: QueueName, order: RedriveOrder) -> Response[Redrive]:
    """A dry run, which is the default, counts. Else 202: a job of its own revives them at the rate given, shows its
    progress, and then deletes stale copies from the dead-letter queue. It can be paused, resumed and removed.

    409 while another redrive of the queue is under way.
    """
    caller = auth.require(Role.OPERATOR, everywhere=True)
    chosen = order.model_dump(mode="json", exclude={"dry_run", "per_second"})
    dead_letters = redrive.dead_letters(known_queue(queue))
    busy = None
    with transaction() as tx:
        dead = Dead(queue, order.type, order.tenant_id, order.error_class, order.died_before)
        matched, key_taken = redrive.count_dead(tx, dead), redrive.count_left(tx, dead)
        found = Redrive(
            dry_run=order.dry_run,
            matched=matched,
            key_taken=key_taken,
            dead_letters=dead_letters,
            seconds=(matched - key_taken) / order.per_second,
        )
        if order.dry_run:
            return Response(int(HTTPStatus.OK), content_type="application/json", body=found)
        payload = {"queue": queue, **chosen, "per_second": order.per_second}
        [made] = enqueue(tx, [JobRequest(REDRIVE, payload, dedup_key=queue, priority=1)])
        job = job_target(REDRIVE_QUEUE, made.id)
        if made.created:
            actions.record(
                tx,
                caller,
                action="queue.redrive",
                target=f"/queues/{queue}",
                tenant_id=order.tenant_id,
                request=payload,
                before={"dead": matched},
                after={"job": job},
                result="begun",
            )
        else:
            busy = job
    if busy:
        raise problems.conflict("a redrive of this queue is under way", job=busy)
    return Response(
        int(HTTPStatus.ACCEPTED),
        content_type="application/json",
        body=found.model_copy(update={"job": job}),
        headers={"Location": job},
    )
