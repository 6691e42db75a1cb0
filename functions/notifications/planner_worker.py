"""Lambda `scheduled-email-worker`: empties queue scheduled-email."""

from __future__ import annotations

from typing import Any

from functions.pipeline.worker import handle


def handler(event: Any, context: Any) -> dict[str, Any]:
    return handle(event, context, queue="scheduled-email")
