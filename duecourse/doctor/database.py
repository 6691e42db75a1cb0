"""The database and the flow as the management API sees them: a laptop does not reach a database in a VPC."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from duecourse.api import ApiError
from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, Level, warning
from duecourse.target import TargetError
from duecourse.words import about
from functions.pipeline.heartbeat import EXPECTED_EVERY_SECONDS, SILENT_AFTER_BEATS

FEWEST_MONTHS_AHEAD = 2
"""Migration and sweep keep three; with fewer than two the sweep has failed for a month at least."""
LEVELS = {"bad": Level.PROBLEM, "degraded": Level.WARNING}


def api(facts: Facts) -> Iterator[Fault]:
    """Whether the API answers to the token at hand."""
    name = facts.deployment.name
    try:
        facts.health("database")
    except TargetError as error:
        cause, _, fix = str(error).partition(": ")
        yield Fault(cause, fix)
    except ApiError as error:
        yield Fault(
            str(error),
            f"read the log /aws/lambda/{name}-api; or make another token by `duecourse token create`, for {name}",
        )


def migrations(facts: Facts) -> Iterator[Fault]:
    """Whether the schema is at the newest revision that the deployed code knows."""
    found = facts.health("database")
    if found["revision"] < found["expected_revision"]:
        yield Fault(
            f"the schema is at revision {found['revision']}, the deployed code needs {found['expected_revision']}",
            f"aws lambda invoke --function-name {facts.deployment.name}-migrate /dev/stdout;"
            " docs/runbooks/migration-failed.md",
        )


def partitions(facts: Facts) -> Iterator[Fault]:
    """Whether the coming months have partitions. Without one, rows go to the default partition, and stay there."""
    last = datetime.strptime(facts.health("database")["last_partition"], "%Y_%m").replace(tzinfo=UTC)
    today = datetime.fromtimestamp(facts.now(), UTC)
    ahead = (last.year - today.year) * 12 + last.month - today.month
    if ahead < FEWEST_MONTHS_AHEAD:
        yield Fault(
            f"the last partition of jobs is that of {last:%Y-%m}: the sweep makes no more",
            f"aws lambda invoke --function-name {facts.deployment.name}-sweep /dev/stdout, and read its log",
            Level.WARNING if ahead else Level.PROBLEM,
        )


def database(facts: Facts) -> Iterator[Fault]:
    """What the API finds of the server itself: slow, read-only, out of connections, a transaction that never ends."""
    for finding in facts.health("database")["findings"]:
        if finding["runbook"].endswith("/database-away.md"):
            yield Fault(finding["reason"], finding["runbook"], LEVELS[finding["severity"]])


def heartbeats(facts: Facts) -> Iterator[Fault]:
    """Whether relay and sweep do their rounds."""
    found = facts.health("queues")
    for name, every in EXPECTED_EVERY_SECONDS.items():
        age = found[f"{name}_seconds_ago"]
        log = f"read the log /aws/lambda/{facts.deployment.name}-{name}; docs/runbooks/heartbeat.md"
        if age is None:
            yield warning(f"the {name} has not run yet", f"wait for {about(every)}, and look again; then {log}")
        elif age > every * SILENT_AFTER_BEATS:
            yield Fault(f"the {name} was last heard of {about(age)} ago", log)


def conservation(facts: Facts) -> Iterator[Fault]:
    """Whether the last sweep found every job accounted for."""
    if facts.health("queues")["conservation"] is False:
        yield Fault(
            "the counts of jobs do not add up: something wrote to the ledger past its triggers",
            "docs/runbooks/conservation.md",
        )


def schedules(facts: Facts) -> Iterator[Fault]:
    """Whether every schedule of the deployed code is on."""
    for schedule in facts.deployment.api().get("schedules")["items"]:
        if schedule["enabled_since"] is None:
            name = schedule["name"]
            yield Fault(
                f"{name} is switched off: nothing is planned for any tenant",
                f"UPDATE schedules SET enabled_since = now() WHERE name = '{name}'; what was due before is not planned",
            )
