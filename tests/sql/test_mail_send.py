"""Sending mail: who gets it, who does not, and why; what the provider's answers lead to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from functions.aws import ses
from functions.core.errors import InvalidPayload
from functions.db.engine import statements
from functions.email import settings as mail_settings
from functions.email.eligibility import RECIPIENT_PER_DAY
from tests.harness import new_tenant
from tests.mail import Post, new_client, new_user


def test_a_mail_is_sent_once_and_on_record(post: Post) -> None:
    [job_id] = post.order(post.custom())
    post.work("email")
    [mail] = post.provider.mails()
    assert (mail.to, mail.sender, mail.configuration_set) == ("Ana@Example.com", "no-reply@firm.example", "duecourse")
    assert mail.tags == {"job": str(job_id), "tenant": str(post.tenant_id)}
    assert "A word from your firm." in mail.text
    assert "A word from your firm." in mail.html
    row = post.row(job_id)
    assert (row.state, row.sends, row.provider_id) == ("sent", 1, f"ses-1-{job_id}")
    assert post.job(job_id).state == "completed"


def test_everything_but_critical_mail_can_be_unsubscribed_from_in_one_click(post: Post) -> None:
    post.order(post.custom(), post.reset())
    post.work("email")
    post.work("email-critical")
    [custom, reset] = post.provider.mails()
    assert custom.headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = custom.headers["List-Unsubscribe"].strip("<>")
    assert url.startswith("https://unsubscribe.example/?token=")
    assert url in custom.text
    assert reset.headers == {}
    assert "unsubscribe" not in reset.text.lower()


def test_a_reader_whose_language_has_no_texts_reads_the_firm_s(post: Post) -> None:
    post.rows("UPDATE tenants SET locale = 'de' WHERE id = :t", t=post.tenant_id)
    post.rows("UPDATE users SET locale = 'sv' WHERE id = :u", u=post.user_id)
    post.order(post.reset())
    post.work("email-critical")
    [mail] = post.provider.mails()
    assert 'lang="de"' in mail.html


def test_the_intent_is_committed_before_the_provider_is_asked(post: Post) -> None:
    seen: list[Any] = []
    post.provider.before = lambda _: seen.extend(post.rows("SELECT state, sent_at FROM email_messages"))
    post.order(post.custom())
    post.work("email")
    assert [tuple(row) for row in seen] == [("intended", None)]


def test_a_batch_takes_as_many_statements_as_a_mail(post: Post) -> None:
    counts = []
    for mails in (1, 10):
        with post.observer.begin() as tx:
            users = [new_user(tx, post.tenant_id, f"u{mails}-{n}@example.com") for n in range(mails)]
        post.order(*[post.custom(recipient_id=str(user)) for user in users])
        before = statements.total
        post.work("email")
        counts.append(statements.total - before)
    assert len(post.provider.mails()) == 11
    # The first batch also reads the provider's limits, which takes two.
    assert counts[1] <= counts[0] <= 20


def test_another_tenant_s_recipient_gets_nothing(post: Post) -> None:
    with post.observer.begin() as tx:
        other = new_tenant(tx)
        user, client = new_user(tx, other, "x@example.com"), new_client(tx, other, "y@example.com")
    own, *foreign = post.order(
        post.custom(),
        post.custom(recipient_id=str(user)),
        post.custom(recipient_kind="client", recipient_id=str(client)),
        post.custom(recipient_id=str(uuid4())),
    )
    post.work("email")
    assert [mail.tags["job"] for mail in post.provider.mails()] == [str(own)]
    for job_id in foreign:
        job = post.job(job_id)
        assert (job.state, job.attempts) == ("dead", 1)
        assert "another tenant's" in job.error


@pytest.mark.parametrize(
    "address",
    ["", "none", "a@b", "a b@example.com", "a@example.com\nBcc: x@example.com", "a@exa mple.com", "a@@example.com",
     "Ana <a@example.com>", "a@example.com,b@example.com", "x" * 300 + "@example.com"],
)  # fmt: skip
def test_an_address_that_is_none_ends_with_its_reason_and_the_rest_goes_out(post: Post, address: str) -> None:
    post.rows("UPDATE clients SET email = :address", address=address)
    bad, good = post.order(post.custom(recipient_kind="client", recipient_id=str(post.client_id)), post.custom())
    post.work("email")
    assert post.job(bad).state == "dead"
    assert "address" in post.job(bad).error
    assert post.job(good).state == "completed"


def test_a_header_injection_is_refused_before_it_is_a_job(post: Post) -> None:
    with pytest.raises(InvalidPayload):
        post.order(post.request("email.custom", subject="Hello\r\nBcc: x@example.com", body="x"))


def test_an_unknown_locale_is_told_and_the_rest_goes_out(post: Post) -> None:
    post.rows("UPDATE clients SET locale = 'xx_nowhere'")
    bad, good = post.order(post.custom(recipient_kind="client", recipient_id=str(post.client_id)), post.custom())
    post.work("email")
    assert post.job(bad).state == "dead"
    assert "locale" in post.job(bad).error
    assert post.job(good).state == "completed"


def test_suppressed_and_switched_off_mail_is_skipped_with_its_reason(post: Post) -> None:
    post.rows("INSERT INTO email_suppressions (address, reason) VALUES ('bakery@example.com', 'complaint')")
    post.rows(
        "INSERT INTO notification_preferences (tenant_id, recipient_kind, recipient_id, category, channel, mode)"
        " VALUES (:t, 'user', :u, 'custom', 'email', 'off')",
        t=post.tenant_id,
        u=post.user_id,
    )
    client = {"recipient_kind": "client", "recipient_id": str(post.client_id)}
    off, listed, reset, listed_reset = post.order(
        post.custom(), post.custom(**client), post.reset(), post.reset(**client)
    )
    post.work("email")
    post.work("email-critical")
    assert post.job(off).result == {"skipped": "suppressed: the recipient has switched off this mail"}
    assert "complaint" in post.job(listed).result["skipped"]
    assert "complaint" in post.job(listed_reset).result["skipped"]
    assert [mail.tags["job"] for mail in post.provider.mails()] == [str(reset)]


def test_a_paused_tenant_s_routine_mail_waits_and_its_critical_mail_goes_on(post: Post) -> None:
    post.rows("UPDATE tenants SET mail_paused_at = now(), mail_paused_reason = 'bounce rate 9 %'")
    routine, critical = post.order(post.custom(), post.reset())
    post.work("email")
    post.work("email-critical")
    job = post.job(routine)
    assert (job.state, job.attempts) == ("delayed", 0)
    assert job.error == "the tenant's routine mail is paused: bounce rate 9 %"
    assert post.job(critical).state == "completed"


def test_quiet_hours_hold_routine_mail_until_they_end(post: Post) -> None:
    post.rows("UPDATE users SET quiet_from = (now() AT TIME ZONE 'UTC')::time - interval '1 hour',"
              " quiet_until = (now() AT TIME ZONE 'UTC')::time + interval '1 hour'")  # fmt: skip
    routine, critical = post.order(post.custom(), post.reset())
    post.work("email")
    post.work("email-critical")
    job = post.job(routine)
    assert (job.state, job.error) == ("delayed", "the recipient's quiet hours")
    assert timedelta(minutes=58) < job.run_at - datetime.now(UTC) <= timedelta(hours=1)
    assert post.job(critical).state == "completed"


def test_the_recipient_s_daily_limit_moves_the_rest_to_the_next_local_day(post: Post) -> None:
    post.rows("UPDATE users SET time_zone = 'Pacific/Auckland'")
    ids = post.order(*[post.custom() for _ in range(RECIPIENT_PER_DAY + 3)])
    post.work("email")
    assert len(post.provider.mails()) == RECIPIENT_PER_DAY
    late = [job for job in map(post.job, ids) if job.state == "delayed"]
    assert len(late) == 3
    for job in late:
        assert job.error == f"the recipient's limit of {RECIPIENT_PER_DAY} mails a day"
        assert job.attempts == 0
        [(midnight,)] = post.rows("SELECT (:at AT TIME ZONE 'Pacific/Auckland')::time::text", at=job.run_at)
        assert midnight == "00:00:00"
    post.rows("UPDATE send_counts SET local_date = local_date - 1")
    post.make_due()
    post.work("email")
    assert len(post.provider.mails()) == RECIPIENT_PER_DAY + 3


def test_the_tenant_s_daily_limit_holds_and_spares_critical_mail(post: Post) -> None:
    post.rows("UPDATE tenants SET mail_per_day = 4")
    with post.observer.begin() as tx:
        users = [new_user(tx, post.tenant_id, f"u{n}@example.com") for n in range(6)]
    post.order(*[post.custom(recipient_id=str(user)) for user in users], post.reset())
    post.work("email")
    post.work("email-critical")
    assert len(post.provider.mails()) == 5
    waiting = post.rows("SELECT error FROM jobs WHERE state = 'delayed'")
    assert [row.error for row in waiting] == ["the tenant's limit of 4 mails a day"] * 2


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(ses.NotNow("the provider's sending rate is exceeded", 5), 5), (ses.NotNow("quota", 900), 900)],
)
def test_throttling_is_later_and_costs_no_attempt(post: Post, error: Exception, seconds: int) -> None:
    def throttled(_: ses.Mail) -> None:
        raise error

    post.provider.before = throttled
    [job_id] = post.order(post.custom())
    post.work("email")
    job = post.job(job_id)
    assert (job.state, job.attempts, job.error) == ("delayed", 0, str(error))
    assert abs((job.run_at - datetime.now(UTC)).total_seconds() - seconds) < 3
    post.provider.before = lambda _: None
    post.make_due()
    post.work("email")
    assert len(post.provider.mails()) == 1
    assert (post.row(job_id).state, post.row(job_id).sends) == ("sent", 2)


def test_a_refused_mail_is_dead_with_the_provider_s_reason(post: Post) -> None:
    def refused(_: ses.Mail) -> None:
        raise ses.Refused("the provider refused the mail: MessageRejected")

    post.provider.before = refused
    [job_id] = post.order(post.custom())
    post.work("email")
    assert (post.job(job_id).state, post.row(job_id).state) == ("dead", "failed")
    assert "MessageRejected" in post.job(job_id).error


def test_what_a_mail_speaks_of_is_its_tenant_s_and_its_client_s(post: Post) -> None:
    with post.observer.begin() as tx:
        other = new_client(tx, post.tenant_id, "other@example.com")
    [(invoice,)] = post.rows(
        "INSERT INTO invoices (tenant_id, client_id, number, amount, currency, due_date)"
        " VALUES (:t, :c, '2026-17', 1234.5, 'EUR', '2026-12-24') RETURNING id",
        t=post.tenant_id,
        c=post.client_id,
    )
    to = {"recipient_kind": "client", "invoice_id": str(invoice)}
    right, wrong, none = post.order(
        post.request("email.invoice", **to, recipient_id=str(post.client_id)),
        post.request("email.invoice", **to, recipient_id=str(other)),
        post.request("email.invoice", recipient_kind="user", invoice_id=str(uuid4())),
    )
    post.work("email")
    [mail] = post.provider.mails()
    assert mail.tags["job"] == str(right)
    assert "2026-17" in mail.text
    assert "another client's" in post.job(wrong).error
    assert "no such invoice" in post.job(none).error


def test_an_attachment_is_sent_only_from_the_tenant_s_own_folder(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTACHMENT_BUCKET", "files-bucket")
    mail_settings.settings.cache_clear()
    monkeypatch.setattr("functions.aws.s3.read", lambda bucket, key, most: b"%PDF-1.7")
    [(invoice,)] = post.rows(
        "INSERT INTO invoices (tenant_id, client_id, number, amount, currency, due_date)"
        " VALUES (:t, :c, '1', 1, 'EUR', '2026-12-24') RETURNING id",
        t=post.tenant_id,
        c=post.client_id,
    )

    def invoice_with(bucket: str, key: str, size: int) -> Any:
        file = {"bucket": bucket, "key": key, "file_name": "i.pdf", "content_type": "application/pdf", "size": size}
        return post.request("email.invoice", invoice_id=str(invoice), attachments=[file])

    good, foreign, elsewhere, grown = post.order(
        invoice_with("files-bucket", f"{post.tenant_id}/i.pdf", 8),
        invoice_with("files-bucket", f"{uuid4()}/i.pdf", 8),
        invoice_with("other-bucket", f"{post.tenant_id}/i.pdf", 8),
        invoice_with("files-bucket", f"{post.tenant_id}/i.pdf", 7),
    )
    post.work("email")
    [mail] = post.provider.mails()
    assert mail.tags["job"] == str(good)
    assert [(file.name, file.content) for file in mail.files] == [("i.pdf", b"%PDF-1.7")]
    assert "own folder" in post.job(foreign).error
    assert "own folder" in post.job(elsewhere).error
    assert "size" in post.job(grown).error


def test_a_link_that_has_expired_is_not_sent(post: Post) -> None:
    [job_id] = post.order(
        post.request("email.password_reset", url="https://app.example/r", expires_at="2026-01-01T00:00:00Z")
    )
    post.work("email-critical")
    assert post.job(job_id).result == {"skipped": "suppressed: the link in it has expired"}
