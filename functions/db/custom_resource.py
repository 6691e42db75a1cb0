"""Answers CloudFormation for a custom resource, so that a deployment waits for the migration and fails with it.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from functions.db.engine import error_text

TIMEOUT_SECONDS = 10
REASON_BYTES = 2_000
"""CloudFormation takes 4,096 for the whole answer."""


def is_request(event: object) -> bool:
    """Whether CloudFormation sent this event."""
    return isinstance(event, Mapping) and "ResponseURL" in event and "RequestType" in event


def answer(event: Mapping[str, Any], work: Callable[[], Mapping[str, str]]) -> dict[str, Any]:
    """Do `work` for a Create or Update (a Delete has nothing to undo) and report its result, or why it failed.

    Returns what was sent. Raises only when CloudFormation cannot be reached; it then times out by itself.
    """
    status, reason, data = "SUCCESS", "", {}
    if event["RequestType"] != "Delete":
        try:
            data = dict(work())
        except Exception as error:  # noqa: BLE001 - whatever it is, the deployment must hear of it
            said = f"{type(error).__name__}: {error_text(error)}"
            status, reason = "FAILED", said.encode()[:REASON_BYTES].decode(errors="ignore")
    reply = {
        "Status": status,
        "Reason": reason,
        # The same for ever: another one would make CloudFormation delete the "old" resource.
        "PhysicalResourceId": f"{event['LogicalResourceId']}-schema",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "Data": data,
    }
    from urllib.request import Request, urlopen  # 5 ms that the sweep, which shares a constant with us, need not pay

    body = json.dumps(reply, ensure_ascii=False).encode()
    # The signature of the pre-signed URL covers an empty content type.
    request = Request(event["ResponseURL"], data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310 - the URL is CloudFormation's own
        return reply
