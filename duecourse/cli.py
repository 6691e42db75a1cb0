"""The command line: `duecourse up`, `duecourse demo`, `duecourse invoke relay`, …

Heavy imports stand inside the commands, so that `duecourse --help` is there at once.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from duecourse.console import DEBUG_VARIABLE, FAILED, command, err, out, print_json, step
from duecourse.database_commands import database
from duecourse.doctor_command import doctor
from duecourse.email_commands import email
from duecourse.jobs_commands import jobs
from duecourse.mailbox_commands import mailbox
from duecourse.queues_commands import queues, redrive
from duecourse.schedules_commands import schedules
from duecourse.token_commands import token
from duecourse.watch_commands import audit, errors, metrics

HELP = """Background jobs for compliance SaaS, on your own machine: no Docker, no AWS account.

- `duecourse demo`: a day of compliance refreshes in eleven time zones
- `duecourse up`: PostgreSQL, an AWS emulator, and template.yaml deployed on it
- `duecourse invoke migrate`: call one function
- `duecourse logs relay -f`: watch another
- `duecourse doctor`: what is wrong with a deployment, and what to do

DATABASE_URL and AWS_ENDPOINT_URL use a database and an emulator of your own. All local state is in .duecourse/
(DUECOURSE_HOME puts it elsewhere). docs/local.md tells the rest.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(database, name="db")
app.add_typer(email, name="email")
app.command()(mailbox)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Function = Annotated[str, typer.Argument(help="Its short name, e.g. relay; `duecourse status` lists them.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of one sentence.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


@app.command()
@command
def up(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port of the AWS emulator; without it, the last one or any free one."),
    ] = None,
) -> None:
    """Start PostgreSQL and the AWS emulator, and deploy template.yaml. Again: deploys what changed.

    Examples: `duecourse up`, `duecourse up --port 4566`
    """
    from duecourse.local import stack

    running = stack.up(port=port, step=step)
    err().print(f"Ready at {running.endpoint}. Look with `duecourse status`, stop with `duecourse down`.")


@app.command()
@command
def down(
    purge: Annotated[
        bool, typer.Option("--purge", "--clean", help="Remove the database and all other local state.")
    ] = False,
) -> None:
    """Stop what `duecourse up` started. The database's data stays, unless you say --purge.

    Examples: `duecourse down`, `duecourse down --purge`
    """
    from duecourse.local import stack

    stack.down(purge=purge, step=step)


@app.command()
@command
def status(
    json: Json = False,
    env: Annotated[bool, typer.Option("--env", help="Print export lines for your shell.")] = False,
) -> None:
    """Show what runs, what is deployed and how full the queues are. Exit code 1 when something is missing.

    Examples: `duecourse status --json`, `eval "$(duecourse status --env)"` and then `aws sqs list-queues` (AWS CLI 2)
    """
    from duecourse import views
    from duecourse.local import api_token, aws, stack
    from duecourse.local.state import default_home
    from duecourse.local.status import status as look

    home = default_home()
    found = look(home)
    if json:
        print_json(asdict(found))
    elif not env:
        out().print(views.status(found))
    elif found.endpoint and found.database_url:
        url = stack.current_database_url(home)
        print(aws.shell_exports(found.endpoint, url, found.api_url, api_token.read(home)))
    for problem in found.problems:
        err().print(f"! {problem}", markup=False)
    if not found.running:
        raise typer.Exit(FAILED)


@app.command()
@command
def demo() -> None:
    """Play one day of compliance refreshes: 24 tenants, eleven time zones, one poison message, one redrive.

    Example: `duecourse demo`. It starts what does not run, and writes its result to .duecourse/demo.json as well.
    """
    importlib.import_module("duecourse.demo").run()


@app.command()
@command
def bench(
    small: Annotated[bool, typer.Option("--small", help="Fewer and shorter rounds: two minutes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="One section; may be repeated.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the sections that are measured already.")] = False,
) -> None:
    """Measure against BullMQ, pg-boss, Procrastinate and Celery. Exit code 1 when a ratio misses its target.

    A small run has few rounds: there, only a ratio that misses by a third counts, as a regression.

    Examples: `duecourse bench --small`, `duecourse bench --only enqueue --only cold`
    """
    from duecourse.bench.run import run

    if not run(small=small, only=only or [], resume=resume):
        raise typer.Exit(FAILED)


@app.command()
@command
def chaos(
    small: Annotated[bool, typer.Option("--small", help="One short run; writes .duecourse/chaos.json.")] = False,
    seed: Annotated[list[int] | None, typer.Option(help="Of a run; may be repeated. Else 1, or 1, 2 and 3.")] = None,
    jobs: Annotated[int, typer.Option(min=1_000, help="Jobs of each long run.")] = 100_000,
) -> None:
    """Run jobs under a storm of faults, and count: lost, doubled, stuck. Exit code 1 when any is.

    Examples: `duecourse chaos --small`, `duecourse chaos --seed 7 --jobs 20000`
    """
    from duecourse.chaos import report

    if not (report.small((seed or [1])[0]) if small else report.full(seed or report.SEEDS, jobs)):
        raise typer.Exit(FAILED)


@app.command()
@command
def invoke(
    function: Function,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", help="JSON file with the event, - for stdin; if left out, events/FUNCTION.json."),
    ] = None,
    json: Json = False,
) -> None:
    """Call a function and print what it returns; its log goes to stderr. Exit code 1 when it failed.

    Examples: `duecourse invoke migrate`, `echo '{}' | duecourse invoke migrate -e - --json`
    """
    from duecourse.local import functions, stack

    result = functions.invoke(stack.current(), function, functions.read_event(function, event))
    if json:
        print_json(asdict(result))
    else:
        err().print(result.log, style="dim", markup=False)
        print_json(result.response)
    if result.failed:
        raise typer.Exit(FAILED)


@app.command()
@command
def logs(
    function: Function,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new lines, until Ctrl-C.")] = False,
    since: Annotated[int, typer.Option(min=0, help="Minutes to look back.")] = 60,
) -> None:
    """Show a function's log.

    Examples: `duecourse logs relay --since 5`, `duecourse logs compliance-refresh-worker -f`
    """
    from duecourse import views
    from duecourse.local import functions, stack

    lines = functions.logs(stack.current(), function, since=timedelta(minutes=since), follow=follow)
    try:
        for line in lines:
            out().print(views.log_line(line))
    except KeyboardInterrupt:
        return


# Last, so that `duecourse --help` begins with what a newcomer needs.
OPERATE = "Operate a deployment, here or on AWS (--target)"
for _name, _group in {"queues": queues, "jobs": jobs, "schedules": schedules, "token": token}.items():
    app.add_typer(_group, name=_name, rich_help_panel=OPERATE)
for _command in (redrive, errors, metrics, audit, doctor):
    app.command(rich_help_panel=OPERATE)(_command)


def main() -> None:
    """Entry point of the program."""
    app()


if __name__ == "__main__":
    main()
