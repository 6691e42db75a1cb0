"""A crash between intent and record, at every point and a thousand times: who gets a mail twice, and who none."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from functions.aws import ses
from functions.email import send
from functions.pipeline import settlement
from tests.mail import Killed, Post, new_user

POINTS = ("before sending", "after sending", "recording", "settling", "no answer")
EVENTS = ("at once", "late", "dropped")


def send_event(mail: ses.Mail, at: datetime | None = None) -> dict[str, Any]:
    return {
        "eventType": "Send",
        "mail": {
            "timestamp": (at or datetime.now(UTC)).isoformat(),
            "messageId": f"event-{mail.tags['job']}",
            "destination": [mail.to],
            "tags": {"job": [mail.tags["job"]], "tenant": [mail.tags["tenant"]]},
        },
        "send": {},
    }


class Crashes:
    """Kills the worker at a chosen point of its next run."""

    def __init__(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        self.point: str | None = None
        post.provider.before = lambda _: self.at("before sending")
        post.provider.after = self.after
        record, settle = send.Mailer.record, vars(settlement)["settle"]

        def recording(*arguments: Any, **options: Any) -> Any:
            self.at("recording")
            return record(*arguments, **options)

        def settling(*arguments: Any, **options: Any) -> Any:
            self.at("settling")
            return settle(*arguments, **options)

        monkeypatch.setattr(send.Mailer, "record", recording)
        monkeypatch.setattr(settlement, "settle", settling)

    def at(self, point: str) -> None:
        if self.point == point:
            raise Killed

    def after(self, _: ses.Mail) -> None:
        self.at("after sending")
        if self.point == "no answer":
            raise ses.InDoubt("the connection to the provider broke")


def crash(post: Post, crashes: Crashes, queue: str, point: str, job_id: UUID) -> None:
    """Run the job to its crash; its message comes again when the lease has run out."""
    crashes.point = point
    try:
        messages = post.take(queue, only=job_id)
        assert len(messages) == 1
        post.deliver(queue, messages)
    except Killed:
        pass
    crashes.point = None
    if post.job(job_id).state == "active":
        for message in post.redeliver(queue):  # first judged lost, then run alone
            post.deliver(queue, [message])


@pytest.mark.parametrize("point", POINTS)
def test_routine_mail_in_doubt_waits_for_its_event(post: Post, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    crashes = Crashes(post, monkeypatch)
    [job_id] = post.order(post.custom())
    crash(post, crashes, "email", point, job_id)
    assert (post.job(job_id).state, post.row(job_id).state) == ("delayed", "intended")
    assert "in doubt" in post.job(job_id).error
    sent = len(post.provider.mails())
    if sent:
        post.events(send_event(post.provider.mails()[0]))
    post.make_due()
    post.work("email")
    assert len(post.provider.mails()) == sent
    assert post.job(job_id).state == ("completed" if sent else "delayed")


def test_without_an_event_it_is_held_until_later_events_come_and_then_sent_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(post, monkeypatch)
    [job_id] = post.order(post.custom())
    crash(post, crashes, "email", "before sending", job_id)
    post.age(minutes=31)
    post.make_due()
    post.work("email")
    assert post.job(job_id).error == "in doubt, and no later event of the provider has come: held"
    [other] = post.order(post.custom())
    post.work("email")
    post.events(send_event(post.provider.mails(other)[0]))
    post.make_due()
    post.work("email")
    assert len(post.provider.mails(job_id)) == 1
    assert (post.row(job_id).state, post.row(job_id).sends) == ("sent", 2)


def test_a_doubt_of_24_hours_is_given_up_and_counted_and_a_late_event_still_settles_it(
    post: Post, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = Crashes(post, monkeypatch)
    [job_id] = post.order(post.custom())
    crash(post, crashes, "email", "after sending", job_id)
    assert in_doubt(capsys) == []
    post.age(hours=24)
    post.make_due()
    post.work("email")
    assert in_doubt(capsys) == [1]
    job, row = post.job(job_id), post.row(job_id)
    assert (job.state, row.state) == ("dead", "in_doubt")
    assert job.error.startswith("in_doubt")
    assert row.settled_at is not None
    # A Send event that comes after all still settles the row.
    post.events(send_event(post.provider.mails()[0]))
    assert post.row(job_id).state == "sent"


def in_doubt(capsys: pytest.CaptureFixture[str]) -> list[float]:
    """The samples of the metric MailsInDoubt since the last look; it has no dimension."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"MailsInDoubt"' in line]
    assert all(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] in ([], [[]]) for line in lines)
    return [sum(line["MailsInDoubt"]) for line in lines]


@pytest.mark.parametrize("point", POINTS)
def test_critical_mail_in_doubt_is_sent_again_at_once(post: Post, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    crashes = Crashes(post, monkeypatch)
    [job_id] = post.order(post.reset())
    crash(post, crashes, "email-critical", point, job_id)
    post.make_due()
    post.work("email-critical")
    assert post.job(job_id).state == "completed"
    assert len(post.provider.mails()) == (1 if point == "before sending" else 2)
    assert (post.row(job_id).state, post.row(job_id).sends) == ("sent", 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_crashes(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routine mail is doubled only where its event was dropped, critical mail arrives, every doubt is settled."""
    rng = random.Random(3)
    crashes = Crashes(post, monkeypatch)
    monkeypatch.setattr("functions.email.send.RECIPIENT_PER_DAY", 10_000)
    with post.observer.begin() as tx:
        users = [new_user(tx, post.tenant_id, f"u{n}@example.com") for n in range(50)]
    fates: dict[UUID, tuple[str, str, str]] = {}
    for number in range(1000):
        critical = number % 4 == 0
        queue = "email-critical" if critical else "email"
        request = post.reset if critical else post.custom
        [job_id] = post.order(request(recipient_id=str(users[number % 50])))
        point, event = rng.choice(POINTS), rng.choice(EVENTS)
        fates[job_id] = (queue, point, event)
        crash(post, crashes, queue, point, job_id)
    mails = Counter(UUID(mail.tags["job"]) for mail in post.provider.mails())
    first = {UUID(mail.tags["job"]): mail for mail in post.provider.mails()}
    on_time = [first[job] for job, (_, _, event) in fates.items() if event == "at once" and job in first]
    late = [first[job] for job, (_, _, event) in fates.items() if event == "late" and job in first]
    post.events(*map(send_event, on_time))
    _run(post)
    post.age(minutes=25)
    post.events(*map(send_event, late))
    _run(post)
    post.age(minutes=10)
    post.events(send_event(ses.Mail("", "x@example.com", "", "", "", None, tags={"job": "none", "tenant": "none"})))
    _run(post)
    mails = Counter(UUID(mail.tags["job"]) for mail in post.provider.mails())
    doubled = 0
    for job_id, (queue, point, event) in fates.items():
        job = post.job(job_id)
        assert job.state == "completed", (queue, point, event, job.error)
        assert mails[job_id] >= 1
        if queue == "email":
            assert mails[job_id] <= (2 if event == "dropped" and point != "before sending" else 1), (point, event)
            doubled += mails[job_id] - 1
    dropped = sum(queue == "email" and event == "dropped" and point != "before sending"
                  for queue, point, event in fates.values())  # fmt: skip
    assert doubled == dropped > 100
    assert post.rows("SELECT job_id FROM email_messages WHERE state NOT IN ('sent', 'delivered')") == []


def _run(post: Post) -> None:
    post.make_due()
    for queue in ("email", "email-critical"):
        post.work(queue)
