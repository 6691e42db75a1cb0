"""`duecourse errors`, `metrics` and `audit`: what fails, what the system measures, and what operators did."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from duecourse.console import command, print_json, show
from duecourse.target_options import LOCAL, Json, Profile, Target


@command
def errors(
    queue: Annotated[str | None, typer.Argument(help="Only of this queue.")] = None,
    *,
    job_type: Annotated[str | None, typer.Option("--type", help="Only of jobs of this type.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant's jobs.")] = None,
    since: Annotated[str | None, typer.Option(help="From this instant on; else the last 24 hours.")] = None,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show what fails: failed runs whose errors are alike as one line, with a job to look at; last seen first.

    Examples: `duecourse errors`, `duecourse errors email --since 2026-11-24T08:00Z`
    """
    from duecourse import operate_views
    from duecourse.target import api

    filters = {"queue": queue, "type": job_type, "tenant_id": tenant, "since": since}
    found = api(target, profile=profile).get("errors", **filters)
    if json:
        print_json(found)
    else:
        show(operate_views.errors(found["items"]))


@command
def metrics(
    name: Annotated[str | None, typer.Argument(help="Only those whose name contains this.")] = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Print them as Prometheus reads them.")] = False,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show the metrics, as GET /metrics has them for Prometheus; of histograms the count and the sum.

    Examples: `duecourse metrics dead`, `duecourse metrics --json`, `duecourse metrics --raw`
    """
    from duecourse import operate_views
    from duecourse.target import api

    text = api(target, profile=profile).text("metrics")
    if raw:
        print(text, end="")
        return
    found = [family for family in _families(text) if (name or "") in family["name"]]
    if json:
        print_json(found)
    else:
        show(operate_views.metrics(found))


@command
def audit(
    *,
    actor: Annotated[str | None, typer.Option(help="The name of a token.")] = None,
    action: Annotated[str | None, typer.Option(help="E.g. job.pause.")] = None,
    on: Annotated[str | None, typer.Option(help="What it was done to, as the list shows it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="A tenant's id.")] = None,
    since: Annotated[str | None, typer.Option(help="From this instant on, e.g. 2026-11-24T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this instant.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many at most.")] = 50,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """List what operators did: who, what, on what, before and after, newest first.

    Examples: `duecourse audit`, `duecourse audit --actor ana --since 2026-11-24T08:00Z --json`
    """
    from duecourse import operate_views
    from duecourse.target import api

    filters = {"actor": actor, "action": action, "target": on, "tenant_id": tenant, "since": since, "until": until}
    found = list(api(target, profile=profile).items("audit", limit=limit, **filters))
    if json:
        print_json(found)
    else:
        show(operate_views.audit(found))


def _families(text: str) -> list[dict[str, Any]]:
    """The families in Prometheus's text, as JSON can hold them."""
    from prometheus_client.parser import text_string_to_metric_families

    return [
        {
            "name": family.name,
            "type": family.type,
            "help": family.documentation,
            "samples": [
                {"name": sample.name, "labels": dict(sample.labels), "value": sample.value} for sample in family.samples
            ],
        }
        for family in text_string_to_metric_families(text)
    ]
