"""`duecourse queues` and `duecourse redrive`: how the queues are, stopping and starting one, reviving its dead jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duecourse.console import FAILED, INTERRUPTED, command, err, print_json, show
from duecourse.target_options import LOCAL, DryRun, Json, Profile, Target, Yes

if TYPE_CHECKING:
    from duecourse.api import Api

queues = typer.Typer(
    help="""Show how the queues are; pause and resume one.

    Examples: `duecourse queues`, `duecourse queues pause email --reason "wrong sender"`
    """,
    rich_markup_mode="markdown",
    invoke_without_command=True,
)

Queue = Annotated[str, typer.Argument(help="E.g. email; `duecourse queues` lists them.")]
POLL_SECONDS = 1.0
KEY_TAKEN = "a newer job holds their deduplication key"
OVER = frozenset({"completed", "cancelled", "dead"})


@queues.callback()
@command
def show_queues(context: typer.Context, *, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Show every queue and the verdict on the whole flow. Exit code 1 when somebody has to act now."""
    if context.invoked_subcommand is not None:
        return
    from duecourse import queues_views
    from duecourse.target import api

    found = api(target, profile=profile).health("queues")
    if json:
        print_json(found)
    else:
        show(queues_views.queues(found))
    if found["status"] == "bad":
        raise typer.Exit(FAILED)


@queues.command()
@command
def pause(
    queue: Queue,
    *,
    reason: Annotated[str | None, typer.Option(help="Why; others are shown it.")] = None,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Start no more jobs of a queue. Runs under way end; a deployment does not undo it.

    Example: `duecourse queues pause email-bulk --reason "wrong texts"`
    """
    from duecourse.target import api

    _tell(api(target, profile=profile).post("queues", queue, "pause", body={"reason": reason}), json=json)


@queues.command()
@command
def resume(queue: Queue, *, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Let the jobs of a paused queue go on.

    Example: `duecourse queues resume email-bulk`
    """
    from duecourse.target import api

    _tell(api(target, profile=profile).post("queues", queue, "resume"), json=json)


def _tell(state: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(state)
        return
    mapping = state["mapping"]
    word = "is paused" if state["paused"] else "goes on"
    detail = f": {mapping['detail']}" if mapping["detail"] else ""
    print(f"{state['queue']} {word}; its mapping is {mapping['state']}{detail}")


@command
def redrive(
    queue: Queue,
    *,
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    error_class: Annotated[str | None, typer.Option(help="Only those whose last error is of this class.")] = None,
    before: Annotated[str | None, typer.Option(help="Only those that died before this instant.")] = None,
    per_second: Annotated[float, typer.Option(min=0.1, max=1000, help="Send so many a second.")] = 50,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show its progress until it ends.")] = True,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Revive the dead jobs of a queue at a steady rate, then delete their stale copies from the dead-letter queue.

    Ctrl-C stops watching, not the redrive: `duecourse jobs pause upkeep ID` does.

    Examples: `duecourse redrive email --error-class Timeout --dry-run`, `duecourse redrive email --per-second 200`
    """
    from duecourse.target import api

    order: dict[str, Any] = {
        "type": job_type,
        "tenant_id": tenant,
        "error_class": error_class,
        "died_before": before,
        "per_second": per_second,
    }
    asked = api(target, profile=profile)
    found = asked.post("queues", queue, "redrive", body={**order, "dry_run": True})
    if not json:
        left = f", {found['key_taken']:,} left dead ({KEY_TAKEN})" if found["key_taken"] else ""
        err().print(
            f"{found['matched'] - found['key_taken']:,} dead jobs of {queue} would be revived, in"
            f" {found['seconds']:.0f} s{left}; its dead-letter queue holds about {found['dead_letters']:,} messages",
            markup=False,
        )
    if not dry_run:
        if not yes:
            typer.confirm(f"Begin at {target}?", abort=True, err=True)
        found = asked.post("queues", queue, "redrive", body={**order, "dry_run": False})
        if wait:
            try:
                found = _watch(asked, found["job"], visible=not json)
            except KeyboardInterrupt:
                _, _, at, job = found["job"].split("/")
                err().print(f"The redrive goes on: `duecourse jobs pause {at} {job}` pauses it.", markup=False)
                raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(found)
    elif not dry_run:
        _result(found)
    if found.get("state", "completed") != "completed":
        raise typer.Exit(FAILED)


def _watch(asked: Api, path: str, *, visible: bool) -> dict[str, Any]:
    """The redrive's job, once it is over, its progress shown meanwhile."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    _, _, queue, job = path.split("/")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), disable=not visible) as bar:
        task = bar.add_task(f"Redrive {job}", total=1.0)
        while True:
            found: dict[str, Any] = asked.get("jobs", queue, job)
            done = found["progress"] or 0.0
            counts = found["result"] or found["checkpoint"] or {}
            words = f"revived {counts.get('revived', 0):,}, drained {counts.get('drained', 0):,}"
            bar.update(task, completed=done, description=f"{words} ({found['state']})")
            if found["state"] in OVER:
                bar.update(task, completed=1.0 if found["state"] == "completed" else done)
                return found
            time.sleep(POLL_SECONDS)


def _result(found: dict[str, Any]) -> None:
    if "state" not in found:
        print(f"begun: `duecourse jobs show {' '.join(found['job'].split('/')[2:])}` shows its progress")
    elif found["state"] == "completed":
        result = found["result"]
        left = f"; {result['left']:,} left dead ({KEY_TAKEN})" if "left" in result else ""
        left += f"; {result['locked']:,} left dead (locked by somebody else all the time)" if "locked" in result else ""
        print(f"{result['revived']:,} revived, {result['drained']:,} stale copies deleted{left}")
    else:
        err().print(f"the redrive is {found['state']}: {found['error'] or 'by an operator'}", markup=False)
