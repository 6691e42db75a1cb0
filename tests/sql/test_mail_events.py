"""What SES reports back, in its own shapes: doubts, suppressions, soft bounces, the breaker, unsubscribing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from functions.db.engine import statements
from functions.email import breaker, event_queries
from functions.email.unsubscribe import handler
from tests.harness import new_tenant
from tests.mail import Post

EVENTS = Path(__file__).parents[1] / "events" / "ses"


def documented(
    name: str, *, job: UUID | None, tenant: UUID | None = None, at: datetime | None = None
) -> dict[str, Any]:
    """The detail of an event as SES documents it, about one of our mails."""
    detail: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())["detail"]
    detail["mail"]["tags"] |= {"job": [str(job)], "tenant": [str(tenant)]}
    if at is not None:
        detail["mail"]["timestamp"] = at.isoformat()
        for part in detail.values():
            if isinstance(part, dict) and "timestamp" in part:
                part["timestamp"] = at.isoformat()
    return detail


def sent(post: Post) -> UUID:
    [job_id] = post.order(post.custom())
    post.work("email")
    return job_id


@pytest.mark.parametrize(
    ("name", "state", "kind", "suppressed"),
    [
        ("send", "sent", "send", None),
        ("delivery", "delivered", "delivery", None),
        ("bounce_permanent", "bounced", "bounce", "bounce"),
        ("bounce_transient", "bounced", "delay", None),
        ("complaint", "complained", "complaint", "complaint"),
        ("delivery_delay", "sent", "delay", None),
        ("reject", "rejected", "reject", None),
    ],
)
def test_each_event(post: Post, name: str, state: str, kind: str, suppressed: str | None) -> None:
    job_id = sent(post)
    post.events(documented(name, job=job_id, tenant=post.tenant_id))
    assert post.row(job_id).state == state
    [event] = post.rows("SELECT kind, job_id, tenant_id FROM mail_events")
    assert tuple(event) == (kind, job_id, post.tenant_id)
    found = [(row.address, row.reason) for row in post.rows("SELECT * FROM email_suppressions")]
    assert found == ([("ana@example.com", suppressed)] if suppressed else [])


def test_events_in_any_order_and_twice_end_in_the_same_state(post: Post) -> None:
    job_id = sent(post)
    names = ["complaint", "send", "delivery", "complaint", "delivery"]
    post.events(*[documented(name, job=job_id, tenant=post.tenant_id) for name in names])
    post.events(documented("send", job=job_id, tenant=post.tenant_id))
    assert post.row(job_id).state == "complained"


def test_the_same_event_delivered_twice_counts_once(post: Post) -> None:
    from tests.mail import record

    job_id = sent(post)
    body = {"v": 1, "external": True, "type": "email.event", "dedup_key": "one-event",
            "payload": documented("bounce_transient", job=job_id, tenant=post.tenant_id)}  # fmt: skip
    for _ in range(3):
        post.deliver("ses-events", [record(body)])
    assert [row.n for row in post.rows("SELECT count AS n FROM email_soft_bounces")] == [1]


def test_a_hard_bounce_ends_all_mail_to_the_address_until_an_operator_clears_it(post: Post) -> None:
    job_id = sent(post)
    post.events(documented("bounce_permanent", job=job_id, tenant=post.tenant_id))
    skipped = sent(post)
    assert "suppression list (bounce)" in post.job(skipped).result["skipped"]
    with post.observer.begin() as tx:
        assert event_queries.clear_suppression(tx, " ANA@example.com")
        assert not event_queries.clear_suppression(tx, "ana@example.com")
    sent(post)
    assert len(post.provider.mails()) == 2


def test_soft_bounces_suppress_only_the_fifth_time_in_a_row(post: Post) -> None:
    job_id = sent(post)
    now = datetime.now(UTC)

    def soft(minute: int) -> dict[str, Any]:
        at = now + timedelta(minutes=minute)
        return documented("bounce_transient", job=job_id, tenant=post.tenant_id, at=at)

    for minute in range(4):
        post.events(soft(minute))
    post.events(documented("delivery", job=job_id, tenant=post.tenant_id, at=now + timedelta(minutes=5)))
    for minute in range(6, 10):
        post.events(soft(minute))
    assert post.rows("SELECT * FROM email_suppressions") == []
    post.events(soft(10))
    [row] = post.rows("SELECT * FROM email_suppressions")
    assert (row.address, row.reason, row.detail) == ("ana@example.com", "bounce", "5 soft bounces in a row")


def test_another_system_s_mail_is_none_of_ours(post: Post) -> None:
    detail = documented("delivery", job=None)
    detail["mail"]["tags"] = {}
    post.events(detail)
    [job] = post.rows("SELECT state, result FROM jobs WHERE type = 'email.event'")
    assert "not a mail of ours" in job.result["skipped"]


def test_a_batch_of_events_takes_as_many_statements_as_one(post: Post) -> None:
    job_id = sent(post)
    counts = []
    for events in (1, 10):
        before = statements.total
        post.events(*[documented("bounce_permanent", job=job_id, tenant=post.tenant_id) for _ in range(events)])
        counts.append(statements.total - before)
    assert counts[0] == counts[1]


def _traffic(post: Post, tenant: UUID, kind: str, count: int) -> None:
    post.rows(
        "INSERT INTO mail_events (id, kind, tenant_id, at)"
        " SELECT gen_random_uuid()::text, :kind, :tenant, now() - interval '1 day' FROM generate_series(1, :count)",
        kind=kind,
        tenant=tenant,
        count=count,
    )


@pytest.mark.parametrize(
    ("name", "sends", "before", "paused"),
    [
        ("bounce_permanent", 49, 20, False),
        ("bounce_permanent", 100, 4, False),
        ("bounce_permanent", 100, 5, True),
        ("complaint", 1000, 0, False),
        ("complaint", 999, 0, True),
        ("bounce_transient", 100, 4, False),
    ],
)
def test_the_breaker_pauses_a_tenant_over_the_rates_and_no_other(
    post: Post, name: str, sends: int, before: int, paused: bool
) -> None:
    with post.observer.begin() as tx:
        other = new_tenant(tx)
    _traffic(post, post.tenant_id, "send", sends)
    _traffic(post, post.tenant_id, "bounce", before)
    _traffic(post, other, "send", 50)
    _traffic(post, other, "bounce", 50)
    now = datetime.now(UTC)
    post.events(documented(name, job=post.tenant_id, tenant=post.tenant_id, at=now))
    [row] = post.rows("SELECT * FROM tenants WHERE id = :id", id=post.tenant_id)
    assert (row.mail_paused_at is not None) == paused
    if paused:
        assert "rate" in row.mail_paused_reason
        assert f"of {sends} mails" in row.mail_paused_reason
    assert post.rows("SELECT id FROM tenants WHERE mail_paused_at IS NOT NULL AND id = :id", id=other) == []


def test_a_resumed_tenant_s_rates_are_counted_anew(post: Post) -> None:
    _traffic(post, post.tenant_id, "send", 100)
    _traffic(post, post.tenant_id, "bounce", 50)
    [waiting] = post.order(post.custom())
    post.events(documented("bounce_permanent", job=waiting, tenant=post.tenant_id, at=datetime.now(UTC)))
    post.rows("DELETE FROM email_suppressions")
    post.work("email")
    assert post.job(waiting).state == "delayed"
    with post.observer.begin() as tx:
        assert breaker.resume(tx, post.tenant_id)
        assert not breaker.resume(tx, post.tenant_id)
    post.make_due()
    post.work("email")
    assert post.job(waiting).state == "completed"
    post.events(documented("bounce_permanent", job=waiting, tenant=post.tenant_id, at=datetime.now(UTC)))
    assert post.rows("SELECT id FROM tenants WHERE mail_paused_at IS NOT NULL") == []


def _request(method: str, url: str) -> dict[str, Any]:
    token = url.partition("token=")[2]
    return handler({"requestContext": {"http": {"method": method}}, "queryStringParameters": {"token": token}}, None)


def test_the_link_in_a_mail_unsubscribes_with_a_post_and_only_then(post: Post) -> None:
    sent(post)
    url = post.provider.mails()[0].headers["List-Unsubscribe"].strip("<>")
    for _ in range(2):
        page = _request("GET", url)
        assert (page["statusCode"], 'method="post"' in page["body"]) == (200, True)
    sent(post)
    assert len(post.provider.mails()) == 2
    for _ in range(2):
        assert _request("POST", url)["statusCode"] == 200
    skipped = sent(post)
    assert "switched off" in post.job(skipped).result["skipped"]
    [row] = post.rows("SELECT recipient_kind, recipient_id, category, channel, mode FROM notification_preferences")
    assert tuple(row) == ("user", post.user_id, "custom", "email", "off")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forged_link_is_refused(post: Post, method: str) -> None:
    answer = _request(method, "https://x/?token=AAAA")
    assert answer["statusCode"] == 400
    assert post.rows("SELECT * FROM notification_preferences") == []


def test_an_expired_link_is_refused(post: Post) -> None:
    from functions.email.tokens import Subscription, make_token
    from tests.mail import KEY

    who = Subscription(post.tenant_id, "user", post.user_id, ("custom",))
    token = make_token(KEY, who, now=datetime.now(UTC) - timedelta(days=181))
    assert _request("POST", f"https://x/?token={token}")["statusCode"] == 410
    assert _request("PUT", f"https://x/?token={token}")["statusCode"] == 405
    assert post.rows("SELECT * FROM notification_preferences") == []
