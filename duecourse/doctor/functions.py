"""Functions and what starts them: event source mappings, rules, and the account's concurrency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, warning
from functions.core.catalog import Queue
from functions.core.errors import DuecourseError

NAMED = "FunctionName"
"""How the outputs of the template end that name its functions."""
REDEPLOY = "deploy the current template again"
SPARE_CONCURRENCY = 10
"""For the cron handlers, the relay, the sweep and the API, beside the workers."""


def active(facts: Facts) -> Iterator[Fault]:
    """Whether every function that the stack names is there and can be called."""
    for name in sorted(value for key, value in facts.deployment.outputs.items() if key.endswith(NAMED)):
        function = facts.functions.get(name)
        if function is None:
            yield Fault(f"the function {name} does not exist", REDEPLOY)
        elif function.get("State") == "Pending":
            yield warning(f"{name} is being updated", "wait, and look again")
        elif function.get("State") == "Failed":
            yield Fault(f"{name} has failed: {function.get('StateReason', 'no reason given')}", REDEPLOY)
        elif function.get("LastUpdateStatus") == "Failed":
            reason = function.get("LastUpdateStatusReason", "no reason given")
            yield Fault(f"the last update of {name} failed: {reason}", REDEPLOY)


def mappings(facts: Facts) -> Iterator[Fault]:
    """Whether every worker's event source mapping is there, on, and of the catalogue's measures."""
    paused = _paused(facts)
    for queue in facts.served:
        found = [
            mapping
            for mapping in facts.mappings.get(facts.queue_name(queue), ())
            if mapping["FunctionArn"].rsplit(":function:", 1)[-1].split(":")[0] == facts.worker_name(queue)
        ]
        if not found:
            yield Fault(f"nothing takes messages from {queue.name}: its event source mapping is gone", REDEPLOY)
        for mapping in found:
            yield from _mapping(queue, mapping, is_paused=queue.name in paused)


def _mapping(queue: Queue, mapping: Mapping[str, Any], *, is_paused: bool) -> Iterator[Fault]:
    change = f"aws lambda update-event-source-mapping --uuid {mapping['UUID']}"
    if mapping["State"] in {"Disabled", "Disabling"}:
        if is_paused:
            yield warning(f"{queue.name} is paused by an operator", f"`duecourse queues resume {queue.name}`")
        else:
            yield Fault(
                f"nothing takes messages from {queue.name}: its mapping is {mapping['State']}", f"{change} --enabled"
            )
    if "ReportBatchItemFailures" not in mapping.get("FunctionResponseTypes", ()):
        yield Fault(
            f"a failed job of {queue.name} would send its whole batch again: its mapping knows no partial failures",
            f"{change} --function-response-types ReportBatchItemFailures",
        )
    most = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
    if most != queue.max_concurrency:
        yield warning(
            f"{queue.name} runs {most or 'any number of'} workers at once, the catalogue says {queue.max_concurrency}",
            f"{change} --scaling-config MaximumConcurrency={queue.max_concurrency}",
        )


def _paused(facts: Facts) -> set[str]:
    """The queues that an operator paused, as far as the API can be asked."""
    try:
        return {row["name"] for row in facts.health("queues")["queues"] if row["paused"]}
    except (DuecourseError, KeyError, TypeError):
        return set()


def rules(facts: Facts) -> Iterator[Fault]:
    """Whether the rules fire: one for each schedule, the relay and the sweep."""
    off = [rule for rule in facts.rules if rule["State"] != "ENABLED"]
    if off and facts.deployment.parameters.get("ScheduleState") == "DISABLED":
        yield warning("no schedule fires: the stack's ScheduleState is DISABLED", "deploy with ScheduleState=ENABLED")
        off = [rule for rule in off if rule.get("ScheduleExpression", "").startswith("rate")]
    for rule in off:
        yield Fault(f"the rule {rule['Name']} is {rule['State']}", f"aws events enable-rule --name {rule['Name']}")
    wanted = len(facts.catalog.schedules) + len(("relay", "sweep"))
    if len(facts.rules) < wanted:
        yield Fault(f"the stack has {len(facts.rules)} rules, not {wanted}", REDEPLOY)


def concurrency(facts: Facts) -> Iterator[Fault]:
    """Whether the account lets as many functions run as the mappings may start."""
    needed = sum(queue.max_concurrency for queue in facts.served) + SPARE_CONCURRENCY
    free = facts.client("lambda").get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    if free < needed:
        yield warning(
            f"the account runs {free} functions at once, and this stack alone may want {needed}: the rest is throttled",
            "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384"
            f" --desired-value {max(1000, needed)}",
        )
