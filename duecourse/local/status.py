"""What runs, what is deployed, and how full the queues are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from duecourse.local import deploy, functions, stack
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from duecourse.local.state import Home


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages of one queue and of its dead-letter queue, approximate as SQS counts them."""

    name: str
    visible: int
    in_flight: int
    delayed: int
    dead: int


@dataclass(frozen=True, slots=True)
class Status:
    """A missing part is None, and `problems` says how to get it."""

    running: bool
    database_url: str | None = None
    """Without its password."""
    endpoint: str | None = None
    api_url: str | None = None
    stack_status: str | None = None
    release: str | None = None
    functions: list[str] = field(default_factory=list)
    queues: list[QueueDepth] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def status(home: Home) -> Status:
    """Look at every part; never fails for one that is missing."""
    problems: list[str] = []
    database_url = endpoint = None
    try:
        database_url = stack.current_database_url(home)
    except LocalError as error:
        problems.append(str(error))
    try:
        endpoint = stack.current_endpoint(home)
    except LocalError as error:
        problems.append(str(error))
    found = deploy.describe(endpoint) if endpoint else None
    if endpoint and found is None:
        problems.append(f"nothing is deployed at {endpoint}: run `duecourse up`")
    elif found and found["StackStatus"] not in deploy.USABLE:
        problems.append(f"the stack is {found['StackStatus']}: run `duecourse up`")
    deployed = Stack(endpoint, database_url or "", deploy.outputs(found)) if endpoint and found else None
    return Status(
        running=not problems,
        database_url=stack.without_password(database_url) if database_url else None,
        endpoint=endpoint,
        api_url=deployed.api_url if deployed else None,
        stack_status=found["StackStatus"] if found else None,
        release=deploy.parameter(found, "Release") if found else None,
        functions=functions.names(deployed) if deployed else [],
        queues=queue_depths(deployed) if deployed else [],
        problems=problems,
    )


def queue_depths(deployed: Stack) -> list[QueueDepth]:
    """Every queue of the stack, by its catalogue name."""
    sqs = deployed.client("sqs")
    urls = sqs.list_queues(QueueNamePrefix=f"{deployed.name}-").get("QueueUrls", [])
    with ThreadPoolExecutor() as pool:
        counts = dict(zip(map(_name, urls), pool.map(lambda url: _counts(sqs, url), urls), strict=True))
    depths = []
    for name, (visible, in_flight, delayed) in sorted(counts.items()):
        stem, dot, suffix = name.partition(".")
        if not stem.endswith("-dlq"):
            dead = counts.get(f"{stem}-dlq{dot}{suffix}", (0, 0, 0))
            depths.append(QueueDepth(name.removeprefix(f"{deployed.name}-"), visible, in_flight, delayed, sum(dead)))
    return depths


def _name(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _counts(sqs: Any, url: str) -> tuple[int, int, int]:
    suffixes = ("", "NotVisible", "Delayed")
    names = [f"ApproximateNumberOfMessages{suffix}" for suffix in suffixes]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names).get("Attributes", {})
    visible, in_flight, delayed = (int(found.get(name, 0)) for name in names)
    return visible, in_flight, delayed
