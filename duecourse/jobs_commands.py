"""`duecourse jobs`: find jobs, look at one, and steer one or many through the management API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from duecourse.console import FAILED, command, err, print_json, show
from duecourse.target_options import LOCAL, DryRun, Json, Profile, Target, Yes

if TYPE_CHECKING:
    from duecourse.api import Api

jobs = typer.Typer(
    help="""Find jobs, look at one, and pause, resume, retry or remove one or many.

    Examples: `duecourse jobs list email --state dead`, `duecourse jobs retry email-bulk --error-class Timeout`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Queue = Annotated[str, typer.Argument(help="E.g. email; `duecourse queues` lists them.")]
Id = Annotated[str, typer.Argument(help="The job's id.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="Without any: those that the options find.")]
State = Annotated[str | None, typer.Option(help="E.g. dead, waiting, retrying, paused, completed.")]
JobType = Annotated[str | None, typer.Option("--type", help="E.g. email.invoice; docs/jobs.md lists them.")]
Tenant = Annotated[str | None, typer.Option(help="A tenant's id.")]
ErrorClass = Annotated[str | None, typer.Option(help="Class of the last error, e.g. ProbeFailed.")]
Subject = Annotated[str | None, typer.Option(help="Id of what it is about, e.g. a task or an invoice.")]
Recipient = Annotated[str | None, typer.Option(help="Id of the user or client it writes to.")]
Since = Annotated[str | None, typer.Option(help="Ordered at this instant or later, like 2026-11-24T08:00Z.")]
Until = Annotated[str | None, typer.Option(help="Ordered before this instant.")]
Limit = Annotated[int, typer.Option(min=1, help="Show so many at most.")]
PAST = {"pause": "paused", "resume": "resumed", "retry": "retried", "remove": "removed"}
HELP = {
    "pause": "Keep jobs from running until they are resumed, even where their messages are under way already.",
    "resume": "Let paused jobs go on where they stood.",
    "retry": "Run jobs at once, with fresh attempts; `duecourse redrive` does it to the dead at a steady rate.",
    "remove": "Cancel jobs for good.",
}


@jobs.command("list")
@command
def list_jobs(
    queue: Queue,
    *,
    state: State = None,
    job_type: JobType = None,
    tenant: Tenant = None,
    error_class: ErrorClass = None,
    subject: Subject = None,
    recipient: Recipient = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """List the jobs of a queue that all options given apply to, newest first.

    Examples: `duecourse jobs list email --state dead`, `duecourse jobs list email-bulk --tenant … --json`
    """
    from duecourse import jobs_views
    from duecourse.target import api

    filters = _given(
        state=state,
        type=job_type,
        tenant_id=tenant,
        error_class=error_class,
        subject=subject,
        recipient=recipient,
        created_after=since,
        created_before=until,
    )
    found = list(api(target, profile=profile).items("jobs", queue, limit=limit, **filters))
    if json:
        print_json(found)
        return
    show(jobs_views.jobs(found))
    if len(found) == limit:
        err().print(f"These are the newest {limit}; --limit shows more.", style="dim")


@jobs.command("show")
@command
def show_job(queue: Queue, job: Id, *, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Show all there is to know of a job: what it carries, each run that failed, where its log is.

    Example: `duecourse jobs show email 0192d3a4-7c1e-7000-8000-3f1c5a2b9d10`
    """
    from duecourse import jobs_views
    from duecourse.target import api

    found = api(target, profile=profile).get("jobs", queue, job)
    if json:
        print_json(found)
    else:
        show(jobs_views.job(found))


def _add_action(action: str) -> None:
    @jobs.command(action, help=f"{HELP[action]}\n\nOne or more by id, or all that the options given apply to.")
    @command
    def act(
        queue: Queue,
        ids: Ids = None,
        *,
        state: State = None,
        job_type: JobType = None,
        tenant: Tenant = None,
        error_class: ErrorClass = None,
        subject: Subject = None,
        recipient: Recipient = None,
        since: Since = None,
        until: Until = None,
        dry_run: DryRun = False,
        yes: Yes = False,
        target: Target = LOCAL,
        profile: Profile = None,
        json: Json = False,
    ) -> None:
        from duecourse.target import api

        filters = _given(
            state=state,
            type=job_type,
            tenant_id=tenant,
            error_class=error_class,
            subject=subject,
            recipient=recipient,
            created_after=since,
            created_before=until,
        )
        if ids and (dry_run or filters):
            raise typer.BadParameter("give ids, or options that find jobs, not both")
        if ids:
            _steer_each(api(target, profile=profile), queue, ids, action, json=json)
        else:
            question = None if yes else f"{action.capitalize()} them at {target}?"
            _steer_all(
                api(target, profile=profile), queue, action, filters, dry_run=dry_run, question=question, json=json
            )


for _name in PAST:
    _add_action(_name)


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _steer_each(api: Api, queue: str, ids: list[str], action: str, *, json: bool) -> None:
    """Steer jobs one by one; one that is refused does not keep the others from it."""
    from duecourse.api import Refused

    done: list[dict[str, Any]] = []
    for job in ids:
        try:
            done.append(api.post("jobs", queue, job, action))
        except Refused as refused:
            done.append({"id": job, "queue": queue, "action": action, "refused": str(refused)})
    if json:
        print_json(done)
    else:
        for result in done:
            if "refused" in result:
                err().print(f"{result['id']}: {result['refused']}", markup=False)
            else:
                print(f"{result['id']}: {result['before']} → {result['after']}")
    if any("refused" in result for result in done):
        raise typer.Exit(FAILED)


def _steer_all(
    api: Api,
    queue: str,
    action: str,
    filters: dict[str, str],
    *,
    dry_run: bool,
    question: str | None,
    json: bool,
) -> None:
    """Count the jobs meant, ask the question if there is one, and steer them, a transaction at a time."""
    order = {"filter": filters}
    result = api.post("jobs", queue, action, body={**order, "dry_run": True})
    if not json:
        left = ", ".join(f"{count:,} {state}" for state, count in sorted(result["other_states"].items()))
        rest = f"; left alone: {left}" if left else ""
        if result["key_taken"]:
            rest += f"; {result['key_taken']:,} stay dead, since a newer job holds their deduplication key"
        can = result["matched"] - result["key_taken"]
        err().print(f"{can:,} jobs of {queue} can be {PAST[action]}{rest}", markup=False)
    if not dry_run and result["matched"]:
        if question:
            typer.confirm(question, abort=True, err=True)
        changed = 0
        while True:
            result = api.post("jobs", queue, action, body={**order, "dry_run": False})
            changed += result["changed"]
            if not (result["more"] and result["changed"]):
                break
        result["changed"] = changed
        if not json:
            err().print(f"{changed:,} {PAST[action]}", markup=False)
    if json:
        print_json(result)
