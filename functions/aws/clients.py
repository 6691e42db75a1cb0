"""Lazy boto3 clients, one per service and process. boto3 is imported on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 10


@cache
def client(service: str, *, attempts: int = 4, read_seconds: float | None = None) -> Any:
    """The process's client for a service. Short timeouts: a hanging call must not eat an invocation.

    `attempts` is how often boto3 tries a call by itself: 1 for one that must not be made twice. `read_seconds` is how
    long each waits for an answer, where that is not READ_TIMEOUT_SECONDS.
    """
    import boto3
    from botocore.config import Config

    factory: Any = boto3.client  # its stubs want a literal name
    return factory(
        service,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS if read_seconds is None else read_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=16,
        ),
    )
