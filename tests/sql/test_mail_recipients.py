"""A mail goes to one recipient. Fifty-one of them are refused, however they are given, and their neighbours go out."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from functions.core.errors import InvalidPayload
from tests.mail import Post, new_user

MANY = 51
"""One more than SES takes in a mail."""
ADDRESSES = [f"person{n}@example.com" for n in range(MANY)]


def in_sql(post: Post, payload: dict[str, Any]) -> UUID:
    """An order that nobody has checked yet."""
    [(job_id,)] = post.rows(
        "SELECT enqueue_job('email.custom', CAST(:payload AS jsonb), :tenant)",
        payload=json.dumps(payload),
        tenant=post.tenant_id,
    )
    return UUID(str(job_id))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"recipient_id": [str(uuid4()) for _ in range(MANY)]}, "a mail goes to one recipient: order a job for each"),
        ({"recipients": ADDRESSES}, "recipients: Extra inputs are not permitted"),
        ({"to": ", ".join(ADDRESSES)}, "to: Extra inputs are not permitted"),
        ({"headers": {"Bcc": ", ".join(ADDRESSES)}}, "headers: Extra inputs are not permitted"),
        ({"subject": "News\r\nBcc: " + ", ".join(ADDRESSES[:3])}, "subject: Value error, must be one line"),
    ],
)
def test_many_recipients_in_a_payload_are_refused_with_the_reason(
    post: Post, given: dict[str, Any], reason: str
) -> None:
    right = post.custom()
    payload = dict(right.payload) | given
    with pytest.raises(InvalidPayload, match=reason):
        post.order(post.custom(**given) if "subject" not in given else post.request("email.custom", **payload))
    wrong = in_sql(post, payload)
    [good] = post.order(right)
    assert post.work("email") == 1, "both in one batch"
    job = post.job(wrong)
    assert (job.state, job.attempts) == ("dead", 1)
    assert reason in job.error
    assert "@" not in job.error
    assert [mail.tags["job"] for mail in post.provider.mails()] == [str(good)]
    assert post.job(good).state == "completed"


def test_many_addresses_in_one_are_no_address(post: Post) -> None:
    with post.observer.begin() as tx:
        user = new_user(tx, post.tenant_id, ", ".join(ADDRESSES))
    wrong, good = post.order(post.custom(recipient_id=str(user)), post.custom())
    post.work("email")
    assert post.job(wrong).state == "dead"
    assert post.job(wrong).error == "the user's e-mail address is not valid"
    assert [(mail.to, mail.tags["job"]) for mail in post.provider.mails()] == [("Ana@Example.com", str(good))]
