"""What a job forgets once it is done: links that let their holder in, and the addresses in the provider's events."""

from __future__ import annotations

import json
from pathlib import Path

from functions.aws import ses
from tests.mail import Post

EVENTS = Path(__file__).parents[1] / "events" / "ses"


def test_the_link_of_a_password_reset_is_gone_once_it_was_sent(post: Post) -> None:
    welcome = post.request("email.welcome", url="https://app.example/welcome/secret")
    job_ids = post.order(post.reset(), welcome)
    assert all("url" in post.job(job_id).payload for job_id in job_ids)
    post.work("email-critical")
    post.work("email")
    assert len(post.provider.mails()) == 2
    reset, welcomed = (post.job(job_id) for job_id in job_ids)
    assert reset.state == welcomed.state == "completed"
    assert reset.payload.keys() == {"recipient_kind", "recipient_id", "expires_at"}
    assert welcomed.payload.keys() == {"recipient_kind", "recipient_id", "message"}


def test_a_link_that_was_not_needed_any_more_is_gone_too(post: Post) -> None:
    [job_id] = post.order(
        post.request("email.password_reset", url="https://app.example/r", expires_at="2026-01-01T00:00:00Z")
    )
    post.work("email-critical")
    assert "skipped" in post.job(job_id).result
    assert "url" not in post.job(job_id).payload


def test_a_dead_job_keeps_what_a_redrive_needs(post: Post) -> None:
    def refuse(_: ses.Mail) -> None:
        raise ses.Refused("the provider refused the mail: MessageRejected")

    post.provider.before = refuse
    [job_id] = post.order(post.reset())
    post.work("email-critical")
    assert post.job(job_id).state == "dead"
    assert post.job(job_id).payload["url"] == "https://app.example/reset"


def test_what_others_say_stays_on_record(post: Post) -> None:
    [job_id] = post.order(post.custom())
    before = post.job(job_id).payload
    post.work("email")
    assert post.job(job_id).payload == before


def test_no_address_of_an_event_stays_in_the_ledger(post: Post) -> None:
    details = [json.loads(path.read_text())["detail"] for path in sorted(EVENTS.glob("*.json"))]
    assert all("@" in json.dumps(detail) for detail in details)
    post.events(*details)
    found = post.rows("SELECT state, payload, payload::text AS written FROM jobs WHERE type = 'email.event'")
    assert len(found) == len(details)
    assert {job.state for job in found} == {"completed"}
    assert {job.payload["eventType"] for job in found} == {detail["eventType"] for detail in details}
    assert [job.written for job in found if "@" in job.written] == []


def test_a_link_is_gone_when_its_job_is_cancelled_for_being_late(post: Post) -> None:
    [job_id] = post.order(post.reset())
    post.rows("UPDATE jobs SET deadline_at = now() - interval '1 second' WHERE id = :id", id=job_id)
    post.work("email-critical")
    job = post.job(job_id)
    assert job.state == "cancelled"
    assert "url" not in job.payload
