"""Pausing, resuming, retrying and removing jobs: one by its id, or many by a filter, which counts first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from functions.api import actions, auth, problems
from functions.api.identity import Role
from functions.api.job_queries import COUNT_LIMIT, JobFilter, choose_jobs, count_jobs, count_key_taken
from functions.api.jobs import JobId, QueueName, check, job_target, known_queue
from functions.api.models import Body, View
from functions.api.routing import new_router
from functions.core.job import State
from functions.db.engine import transaction
from functions.pipeline.steer import FROM, Action, steer

router = new_router()

MOST_AT_ONCE = 10_000
"""Jobs that one bulk action changes, in one transaction of a few seconds."""

WHY_NOT = {
    State.ACTIVE: "it is running: wait for the run to end or its lease to be over, or, if it runs in steps, ask again"
    " between two",
    State.COMPLETED: "it is completed",
    State.CANCELLED: "it was removed",
    State.DEAD: "it is dead: retry or remove it",
    State.PAUSED: "it is paused: resume it first",
    State.BLOCKED: "it waits for other jobs",
}

KEY_TAKEN = "a newer job holds its deduplication key: remove one of the two, or wait until that one is finished"

DOES = {
    Action.PAUSE: "It does not run until resumed; a message of it that is under way is dropped when it arrives.",
    Action.RESUME: "It goes on where it stood; in a FIFO group that is behind what came due meanwhile.",
    Action.RETRY: "It runs as soon as there is a worker, with fresh attempts, and under a new delivery. A dead one"
    " takes its deduplication key again, and stays dead where a newer job holds it.",
    Action.REMOVE: "It is cancelled for good; its row stays, and a deduplication key without a window is free.",
}

IN_BULK = {**FROM, Action.RETRY: frozenset({State.DEAD, State.RETRYING})}
"""Without a state in the filter. A delayed job has its reason to wait: whoever wants them all to run says so."""


class Steered(View):
    """What was done."""

    id: UUID
    queue: str
    action: Action
    before: State
    after: State


def _one(action: Action) -> Callable[..., Steered]:
    def steer_job(queue: QueueName, job_id: JobId) -> Steered:
        return _steer_one(action, queue, job_id)

    steer_job.__name__ = f"{action}_job"
    steer_job.__doc__ = f"""{DOES[action]}

    409 when its state does not allow that; the answer says which `state` it is in."""
    return steer_job


def _steer_one(action: Action, queue: str, job_id: UUID) -> Steered:
    caller = auth.require(Role.OPERATOR)
    with transaction() as tx:
        found = steer(tx, action, [job_id], queue=known_queue(queue), tenant_id=caller.tenant_id)
        if not found:
            raise problems.not_found()
        [job] = found
        actions.record(
            tx,
            caller,
            action=f"job.{action}",
            target=job_target(queue, job_id),
            tenant_id=job.tenant_id,
            before={"state": job.before},
            after={"state": job.after or job.before},
            result="done" if job.after else "refused",
        )
    if job.after is None:
        why = KEY_TAKEN if job.key_taken else WHY_NOT.get(job.before, f"it is {job.before}")
        allowed_from = sorted(FROM[action] - {job.before})
        raise problems.conflict(f"cannot {action} this job: {why}", state=job.before, allowed_from=allowed_from)
    return Steered(id=job_id, queue=queue, action=action, before=job.before, after=job.after)


class Selection(Body):
    """Which jobs: all of the queue whose state allows the action, or those that every condition given applies to."""

    state: State | None = None
    type: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    tenant_id: UUID | None = None
    error_class: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    subject: UUID | None = None
    recipient: UUID | None = None


class BulkOrder(Body):
    """An action on many jobs."""

    filter: Selection = Selection()
    dry_run: bool = Field(default=True, description="Count only. Look at the count, then say false.")
    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = MOST_AT_ONCE


class BulkResult(View):
    """What was done, or would be."""

    action: Action
    dry_run: bool
    matched: int = Field(description="Jobs that the filter finds in a state that allows the action.")
    counted_up_to: int = Field(description="Where counting ends; `matched` may then be more.")
    other_states: dict[str, int] = Field(description="Open jobs that the filter finds in other states: left alone.")
    key_taken: int = Field(
        default=0, description="Dead jobs that stay dead, since a newer job holds their deduplication key."
    )
    changed: int
    more: bool = Field(description="Whether jobs are left to be done: say the same again.")


def _many(action: Action) -> Callable[..., BulkResult]:
    def steer_jobs(queue: QueueName, order: BulkOrder) -> BulkResult:
        return _steer_many(action, queue, order)

    steer_jobs.__name__ = f"{action}_jobs"
    steer_jobs.__doc__ = f"""{DOES[action]}

    The oldest first, up to `limit` of them, in one transaction. A dry run, which is the default, counts them."""
    return steer_jobs


def _steer_many(action: Action, queue: str, order: BulkOrder) -> BulkResult:
    caller = auth.require(Role.OPERATOR)
    chosen = order.filter.model_dump() | {"tenant_id": auth.scope(order.filter.tenant_id)}
    wanted = JobFilter(queue=known_queue(queue), **chosen)
    check(wanted, "body.filter")
    states = (IN_BULK if wanted.state is None else FROM)[action]
    revive = action is Action.RETRY and State.DEAD in states
    with transaction() as tx:
        counts, running = count_jobs(tx, wanted)
        matched = sum(n for state, n in counts.items() if state in states)
        key_taken = count_key_taken(tx, wanted) if revive else 0
        changed = 0
        if not order.dry_run:
            ids = choose_jobs(tx, wanted, states, order.limit, revive=revive)
            steered = steer(tx, action, ids, queue=queue, tenant_id=wanted.tenant_id)
            changed = sum(job.after is not None for job in steered)
            key_taken += sum(job.key_taken for job in steered)
            actions.record(
                tx,
                caller,
                action=f"jobs.{action}",
                target=f"/jobs/{queue}",
                tenant_id=wanted.tenant_id,
                request=order.model_dump(mode="json", exclude_none=True),
                before=dict(Counter(job.before for job in steered)),
                after=dict(Counter(job.after or job.before for job in steered)),
                result=f"{changed} changed",
            )
    others = {state: n for state, n in counts.items() if state not in states}
    if running:
        others[State.ACTIVE] = others.get(State.ACTIVE, 0) + running
    return BulkResult(
        action=action,
        dry_run=order.dry_run,
        matched=matched,
        counted_up_to=COUNT_LIMIT,
        other_states=others,
        key_taken=key_taken,
        changed=changed,
        more=not order.dry_run and changed + key_taken < matched,
    )


for _action in Action:
    router.post(f"/jobs/<queue>/<job_id>/{_action}", summary=f"{_action.title()} a job", tags=["Jobs"])(_one(_action))
    router.post(f"/jobs/<queue>/{_action}", summary=f"{_action.title()} many jobs", tags=["Jobs"])(_many(_action))
