"""`duecourse schedules`: what runs daily, and running it by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from duecourse.console import command, err, print_json, show
from duecourse.target_options import LOCAL, DryRun, Json, Profile, Target, Yes

schedules = typer.Typer(
    help="""Show the schedules, and run one by hand.

    Examples: `duecourse schedules list`, `duecourse schedules run daily-digest --date 2026-11-24`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@schedules.command("list")
@command
def list_schedules(*, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Show every schedule: when, what, since when, and its runs of the last two days.

    Example: `duecourse schedules list`
    """
    from duecourse import queues_views
    from duecourse.target import api

    found = api(target, profile=profile).get("schedules")["items"]
    if json:
        print_json(found)
    else:
        show(queues_views.schedules(found))


@schedules.command()
@command
def run(
    name: Annotated[str, typer.Argument(help="E.g. daily-digest; `duecourse schedules list` shows them.")],
    *,
    tenant: Annotated[list[str] | None, typer.Option(help="A tenant's id; may be repeated. Else all of them.")] = None,
    date: Annotated[str | None, typer.Option(help="A day, e.g. 2026-11-24. Else each tenant's own today.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also where that day has run already, or it is off.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Order a schedule's job at once, once per tenant and day.

    Examples: `duecourse schedules run daily-compliance-refresh --dry-run`, `duecourse schedules run daily-digest --yes`
    """
    from duecourse.target import api

    asked = api(target, profile=profile)
    order: dict[str, Any] = {"tenants": tenant or None, "local_date": date, "force": force}
    found = asked.post("schedules", name, "run", body={**order, "dry_run": True})
    if not json:
        already = f"; {found['already']:,} have it already" if found["already"] else ""
        err().print(f"{name} would be ordered for {found['planned']:,} of {found['tenants']:,} tenants{already}")
    if not dry_run:
        if not yes:
            typer.confirm(f"Order it at {target}?", abort=True, err=True)
        found = asked.post("schedules", name, "run", body={**order, "dry_run": False})
        if not json:
            print(f"{found['planned']:,} jobs ordered")
    if json:
        print_json(found)
