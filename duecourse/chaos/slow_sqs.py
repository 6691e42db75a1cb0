"""An SQS that is slow, refuses single entries of a call, and now and then the whole call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from duecourse.chaos.saboteur import Saboteur

SWITCH = "sqs-slow"
SLOWEST_SECONDS, FASTEST_SECONDS = 3.0, 0.2
SLOW, REFUSED_ENTRY, REFUSED_CALL = 0.5, 0.15, 0.05
"""Shares: of the calls that are slow, of the entries and of the calls that are refused."""
REFUSAL = "InternalError: We encountered an internal error. Please try again."


def send_batch(
    saboteur: Saboteur, send: Callable[[str, Sequence[Any]], list[str | None]], url: str, messages: Sequence[Any]
) -> list[str | None]:
    """`functions.aws.sqs.send_batch` while `SWITCH` is on; what is refused was not sent."""
    if not saboteur.on(SWITCH):
        return send(url, messages)
    if saboteur.strikes(SLOW):
        saboteur.note("SQS slow to answer a send")
        time.sleep(saboteur.rng.uniform(FASTEST_SECONDS, SLOWEST_SECONDS))
    if saboteur.strikes(REFUSED_CALL):
        saboteur.note("SQS refused a send")
        error = {"Error": {"Code": "ServiceUnavailable", "Message": "Service is unavailable."}}
        raise ClientError(error, "SendMessageBatch")  # type: ignore[arg-type]
    refused = [saboteur.strikes(REFUSED_ENTRY) for _ in messages]
    for _ in filter(None, refused):
        saboteur.note("SQS refused an entry of a send")
    taken = [message for message, no in zip(messages, refused, strict=True) if not no]
    answers = iter(send(url, taken) if taken else [])
    return [REFUSAL if no else next(answers) for no in refused]
