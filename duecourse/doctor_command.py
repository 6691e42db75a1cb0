"""`duecourse doctor`: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from duecourse.console import FAILED, command, print_json, show
from duecourse.target_options import LOCAL, Json, Profile, Target


@command
def doctor(target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Check a deployment: queues, mappings, rules, secrets, mail, schema, clock. Exit code 1 when there is a problem.

    Examples: `duecourse doctor`, `duecourse doctor --target duecourse-prod --profile prod`
    """
    from duecourse import operate_views
    from duecourse import target as targets
    from duecourse.doctor.examine import examine
    from duecourse.doctor.facts import Facts
    from duecourse.doctor.finding import Level

    found = examine(Facts(targets.deployment(target, profile=profile)))
    if json:
        print_json([asdict(finding) for finding in found])
    else:
        show(operate_views.findings(found))
    if any(finding.level is Level.PROBLEM for finding in found):
        raise typer.Exit(FAILED)
