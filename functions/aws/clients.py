"""Lazy boto3 clients, one per service and process. boto3 is imported on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 10


@cache
def client(service: str, *, attempts: int = 4, timeout_seconds: float | None = None) -> Any:
    """The process's client for a service. Short timeouts: a hanging call must not eat an invocation.

    `attempts` is how often boto3 tries a call by itself: 1 for one that must not be made twice. `timeout_seconds`, to
    connect and to read, replaces the usual ones.
    """
    import boto3
    from botocore.config import Config

    factory: Any = boto3.client  # its stubs want a literal name
    return factory(
        service,
        config=Config(
            connect_timeout=timeout_seconds or CONNECT_TIMEOUT_SECONDS,
            read_timeout=timeout_seconds or READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=16,
        ),
    )
