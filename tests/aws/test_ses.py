"""SES's calls, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.stub import Stubber
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ses.models import ses_backends

from functions.aws import ses
from functions.aws.clients import client

MAIL = ses.Mail(
    sender="no-reply@firm.example",
    to="ana@example.com",
    subject="Grüße",
    text="text",
    html="<p>html</p>",
    configuration_set="mails",
    headers={"List-Unsubscribe": "<https://x.example/?token=a>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    tags={"job": "0189-ab", "tenant": "not allowed: ä/b"},
    files=[ses.File("a.pdf", "application/pdf", b"%PDF")],
)


def test_a_mail_reaches_ses() -> None:
    client("sesv2").create_email_identity(EmailIdentity="firm.example")
    message_id = ses.send(MAIL)
    [message] = ses_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].sent_messages
    assert message.id == message_id
    assert message.subject == "Grüße"
    assert message.destinations["ToAddresses"] == ["ana@example.com"]


def test_the_request_is_what_ses_documents() -> None:
    sesv2 = client("sesv2", attempts=1)
    expected = {
        "FromEmailAddress": "no-reply@firm.example",
        "Destination": {"ToAddresses": ["ana@example.com"]},
        "ConfigurationSetName": "mails",
        "EmailTags": [{"Name": "job", "Value": "0189-ab"}, {"Name": "tenant", "Value": "not_allowed____b"}],
        "Content": {
            "Simple": {
                "Subject": {"Data": "Grüße", "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": "text", "Charset": "UTF-8"},
                    "Html": {"Data": "<p>html</p>", "Charset": "UTF-8"},
                },
                "Headers": [
                    {"Name": "List-Unsubscribe", "Value": "<https://x.example/?token=a>"},
                    {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
                ],
                "Attachments": [
                    {
                        "FileName": "a.pdf",
                        "ContentType": "application/pdf",
                        "RawContent": b"%PDF",
                        "ContentDisposition": "ATTACHMENT",
                        "ContentTransferEncoding": "BASE64",
                    }
                ],
            }
        },
    }
    with Stubber(sesv2) as stub:
        stub.add_response("send_email", {"MessageId": "m-1"}, expected)
        assert ses.send(MAIL) == "m-1"
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "message", "status", "kind", "seconds"),
    [
        ("TooManyRequestsException", "Maximum sending rate exceeded.", 429, ses.NotNow, ses.RATE_SECONDS),
        ("Throttling", "Rate exceeded", 400, ses.NotNow, ses.RATE_SECONDS),
        ("LimitExceededException", "Daily message quota exceeded.", 400, ses.NotNow, ses.QUOTA_SECONDS),
        ("SendingPausedException", "paused", 400, ses.NotNow, ses.PAUSE_SECONDS),
        ("AccountSuspendedException", "suspended", 400, ses.NotNow, ses.PAUSE_SECONDS),
        ("MessageRejected", "Email address is not verified: ana@example.com", 400, ses.Refused, None),
        ("MessageRejected", "Email address is not verified: no-reply@firm.example", 400, ses.NotNow, ses.PAUSE_SECONDS),
        ("BadRequestException", "Illegal address", 400, ses.Refused, None),
        ("InternalFailure", "oops", 500, ses.InDoubt, None),
    ],
)
def test_what_ses_answers(
    code: str, message: str, status: int, kind: type[ses.MailError], seconds: float | None
) -> None:
    with Stubber(client("sesv2", attempts=1)) as stub:
        stub.add_client_error("send_email", code, message, http_status_code=status)
        with pytest.raises(kind) as raised:
            ses.send(MAIL)
    assert "ana@example.com" not in str(raised.value)
    assert getattr(raised.value, "seconds", None) == seconds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="https://email"), ses.NotNow),
        (ConnectTimeoutError(endpoint_url="https://email"), ses.NotNow),
        (ReadTimeoutError(endpoint_url="https://email"), ses.InDoubt),
    ],
)
def test_no_answer_is_doubt_only_once_ses_had_the_mail(
    error: Exception, kind: type[ses.MailError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> None:
        raise error

    monkeypatch.setattr(client("sesv2", attempts=1), "send_email", broken)
    with pytest.raises(kind):
        ses.send(MAIL)


def test_a_mail_is_asked_for_once() -> None:
    """What boto3 tries again by itself could be sent twice."""
    retries = client("sesv2", attempts=1).meta.config.retries
    assert retries["total_max_attempts"] == 1


def test_the_quota() -> None:
    sesv2 = client("sesv2")
    with Stubber(sesv2) as stub:
        quota = {"Max24HourSend": -1.0, "MaxSendRate": 14.0, "SentLast24Hours": 3.0}
        stub.add_response("get_account", {"SendQuota": quota}, {})
        assert ses.quota() == ses.Quota(14.0, -1)
