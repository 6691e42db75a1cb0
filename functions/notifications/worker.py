"""Lambda `notifications-worker`: empties queue notifications."""

from __future__ import annotations

from typing import Any

from functions.pipeline.worker import handle


def handler(event: Any, context: Any) -> dict[str, Any]:
    return handle(event, context, queue="notifications")
