"""What the pipeline reads from the environment: once, at the edge, with an error that names what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the queues are."""

    queue_url_prefix: str
    """A queue's URL up to its own name, e.g. `https://sqs.eu-central-1.amazonaws.com/123456789012/duecourse-prod-`."""

    def queue_url(self, queue: str, *, dead_letter: bool = False, catalog: Catalog = CATALOG) -> str:
        """The URL of a queue of the catalogue, or of its dead-letter queue."""
        name = f"{queue}-dlq" if dead_letter else queue
        return f"{self.queue_url_prefix}{name}{'.fifo' if catalog.queues[queue].fifo else ''}"

    def worker_function(self, queue: str) -> str:
        """The name of the function that empties a queue."""
        return self.function(f"{queue}-worker")

    def function(self, name: str) -> str:
        """A function's full name: functions and queues of a stack have one prefix."""
        return f"{self.queue_url_prefix.rpartition('/')[2]}{name}"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises `ConfigurationError` naming the missing variable."""
    prefix = environ.get("QUEUE_URL_PREFIX")
    if not prefix:
        raise ConfigurationError(
            "QUEUE_URL_PREFIX is not set: it is a queue's URL up to the queue's own name, and template.yaml sets it"
        )
    return Settings(queue_url_prefix=prefix)


@cache
def settings() -> Settings:
    """The process's settings."""
    return load_settings()
