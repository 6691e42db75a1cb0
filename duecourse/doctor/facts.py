"""What several checks look at, asked for once."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from duecourse.target import Deployment
from functions.core.catalog import CATALOG, Catalog, Queue

THREADS = 8


class Facts:
    """A deployment's parts as AWS describes them. Each is asked for on first use, and then kept."""

    def __init__(
        self, deployment: Deployment, *, catalog: Catalog = CATALOG, now: Callable[[], float] = time.time
    ) -> None:
        self.deployment = deployment
        self.catalog = catalog
        self.now = now
        """Seconds since the epoch, by this machine."""
        self._known: dict[str, Any] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def client(self, service: str) -> Any:
        return self.deployment.client(service)

    def queue_name(self, queue: Queue, *, dead_letter: bool = False) -> str:
        """The name that SQS knows a queue by."""
        return f"{self.deployment.name}-{queue.name}{'-dlq' * dead_letter}{'.fifo' * queue.fifo}"

    def worker_name(self, queue: Queue) -> str:
        return f"{self.deployment.name}-{queue.name}-worker"

    @property
    def served(self) -> list[Queue]:
        """The queues that have a worker: those with a job type."""
        used = {row.queue for row in self.catalog.job_types.values()}
        return [queue for queue in self.catalog.queues.values() if queue.name in used]

    @property
    def functions(self) -> Mapping[str, Mapping[str, Any]]:
        """The stack's functions by their whole names."""

        def ask() -> dict[str, Any]:
            pages = self.client("lambda").get_paginator("list_functions").paginate()
            found = (function for page in pages for function in page["Functions"])
            prefix = f"{self.deployment.name}-"
            return {row["FunctionName"]: row for row in found if row["FunctionName"].startswith(prefix)}

        return self._once("functions", ask)  # type: ignore[no-any-return]

    @property
    def mappings(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """The event source mappings of the account by the name of the queue they take from."""

        def ask() -> dict[str, list[Any]]:
            pages = self.client("lambda").get_paginator("list_event_source_mappings").paginate()
            found: dict[str, list[Any]] = {}
            for mapping in (mapping for page in pages for mapping in page["EventSourceMappings"]):
                found.setdefault(mapping.get("EventSourceArn", "").rsplit(":", 1)[-1], []).append(mapping)
            return found

        return self._once("mappings", ask)  # type: ignore[no-any-return]

    @property
    def queues(self) -> Mapping[str, Mapping[str, str] | None]:
        """The attributes of every queue and dead-letter queue by name; None: it does not exist."""
        names = [
            self.queue_name(queue, dead_letter=dead) for queue in self.catalog.queues.values() for dead in (False, True)
        ]

        def ask() -> dict[str, Any]:
            with ThreadPoolExecutor(THREADS) as pool:
                return dict(zip(names, pool.map(self._queue, names), strict=True))

        return self._once("queues", ask)  # type: ignore[no-any-return]

    @property
    def rules(self) -> list[Mapping[str, Any]]:
        """The stack's own EventBridge rules, with the logical id of each as `LogicalId`."""

        def ask() -> list[Any]:
            pages = self.client("cloudformation").get_paginator("list_stack_resources")
            rows = [
                row for page in pages.paginate(StackName=self.deployment.name) for row in page["StackResourceSummaries"]
            ]
            rules = [row for row in rows if row["ResourceType"] == "AWS::Events::Rule"]
            events = self.client("events")
            with ThreadPoolExecutor(THREADS) as pool:
                return list(
                    pool.map(
                        lambda row: (
                            events.describe_rule(Name=row["PhysicalResourceId"].rsplit("|", 1)[-1])
                            | {"LogicalId": row["LogicalResourceId"]}
                        ),
                        rules,
                    )
                )

        return self._once("rules", ask)  # type: ignore[no-any-return]

    def health(self, part: str) -> Any:
        """What the API says at /health/PART. Raises `ApiError` or `TargetError`."""
        return self._once(f"/health/{part}", lambda: self.deployment.api().health(part))

    def window_seconds(self, queue: Queue) -> int:
        """How long a mapping may hold a queue's messages back to make a batch of them."""
        found = self.mappings.get(self.queue_name(queue), ())
        return max((int(mapping.get("MaximumBatchingWindowInSeconds", 0)) for mapping in found), default=0)

    def _queue(self, name: str) -> Mapping[str, str] | None:
        sqs = self.client("sqs")
        try:
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist:
            return None
        found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return found | {"QueueUrl": url}

    def _once(self, name: str, ask: Callable[[], Any]) -> Any:
        with self._locks[name]:
            if name not in self._known:
                self._known[name] = ask()
        return self._known[name]


def policy(attributes: Mapping[str, str], name: str) -> Mapping[str, Any]:
    """A policy among a queue's attributes; empty where there is none."""
    try:
        found = json.loads(attributes.get(name) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
