"""Mails that list what is due: where their button leads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from functions.email import settings as mail_settings
from tests.mail import Post
from tests.notices import TODAY, Firm, in_days, run


@pytest.mark.parametrize("app_url", ["https://app.example/due", None])
def test_a_digest_leads_to_the_application_where_there_is_one(
    post: Post, monkeypatch: pytest.MonkeyPatch, app_url: str | None
) -> None:
    monkeypatch.setenv("APP_URL", app_url or "")
    mail_settings.settings.cache_clear()
    with post.observer.begin() as tx:
        firm = replace(Firm.create(tx), id=post.tenant_id)
        firm.document(firm.client(post.user_id), in_days(7))
        run(tx, "email.document_expiry", post.tenant_id)
    post.order(post.request("email.digest", local_date=TODAY.isoformat()))
    post.work("email-bulk")
    [mail] = post.provider.mails()
    assert "Passport" in mail.text
    links = ("https://app.example/due" in mail.text, 'href="https://app.example/due"' in mail.html)
    assert links == (app_url is not None,) * 2
