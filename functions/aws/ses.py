"""SES v2: send one mail, ask for the limits. What SES answers becomes one of four kinds of error.

MailError
├── NotNow          SES takes nothing at present (rate, quota, a pause, no connection): the mail was not sent
├── Refused         SES will never take this mail
└── InDoubt         no answer came: the mail may have been sent
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from functions.aws.clients import client
from functions.core.errors import DuecourseError

RATE_SECONDS = 5.0
QUOTA_SECONDS = 900.0
PAUSE_SECONDS = 300.0
AWAY_SECONDS = 60.0
"""How long to wait after each kind of refusal."""

THROTTLED = frozenset({"TooManyRequestsException", "Throttling", "ThrottlingException", "LimitExceededException"})
REFUSED = frozenset({"MessageRejected", "BadRequestException"})
HELD = frozenset({"SendingPausedException", "AccountSuspendedException", "MailFromDomainNotVerifiedException"})
"""https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html#API_SendEmail_Errors"""

TAG_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
TAG_LENGTH = 256
ADDRESS = re.compile(r"[^\s<>:,]+@[^\s<>:,]+")


class MailError(DuecourseError):
    """SES did not confirm a mail."""


class NotNow(MailError):
    """SES takes nothing at present; the mail was not sent. `seconds` is when to ask again."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Refused(MailError):
    """SES will never take this mail; the message says why."""


class InDoubt(MailError):
    """The connection broke before an answer: the mail may have been sent."""


@dataclass(frozen=True, slots=True)
class File:
    """An attachment."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to one address."""

    sender: str
    to: str
    subject: str
    text: str
    html: str
    configuration_set: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[File] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """The account's limits; `per_day` -1: unlimited."""

    per_second: float
    per_day: int


def send(mail: Mail) -> str:
    """Send a mail, asking once: SES's own id of it. Raises `MailError`, or botocore's error for a mistake of ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        reply = client("sesv2", attempts=1).send_email(**_request(mail))
    except ClientError as error:
        raise _meaning(error, mail.sender) from error
    except BotoCoreError as error:
        raise _broken(error) from error
    return str(reply["MessageId"])


def quota() -> Quota:
    """The account's limits, the only way to know them. Raises botocore's errors."""
    found = client("sesv2").get_account()["SendQuota"]
    return Quota(float(found["MaxSendRate"]), int(found["Max24HourSend"]))


def _request(mail: Mail) -> dict[str, Any]:
    simple: dict[str, Any] = {
        "Subject": {"Data": mail.subject, "Charset": "UTF-8"},
        "Body": {
            "Text": {"Data": mail.text, "Charset": "UTF-8"},
            "Html": {"Data": mail.html, "Charset": "UTF-8"},
        },
    }
    if mail.headers:
        simple["Headers"] = [{"Name": name, "Value": value} for name, value in mail.headers.items()]
    if mail.files:
        simple["Attachments"] = [
            {
                "FileName": file.name,
                "ContentType": file.content_type,
                "RawContent": file.content,
                "ContentDisposition": "ATTACHMENT",
                "ContentTransferEncoding": "BASE64",
            }
            for file in mail.files
        ]
    request: dict[str, Any] = {
        "FromEmailAddress": mail.sender,
        "Destination": {"ToAddresses": [mail.to]},
        "Content": {"Simple": simple},
        "EmailTags": [{"Name": name, "Value": _tag(value)} for name, value in mail.tags.items()],
    }
    if mail.configuration_set:
        request["ConfigurationSetName"] = mail.configuration_set
    return request


def _tag(value: str) -> str:
    return TAG_UNSAFE.sub("_", value)[:TAG_LENGTH]


def _meaning(error: Any, sender: str) -> Exception:  # noqa: PLR0911 - one return for each kind of answer
    code = error.response["Error"]["Code"]
    message = error.response["Error"].get("Message", "")
    if "Daily message quota exceeded" in message:
        return NotNow("the provider's daily quota is used up", QUOTA_SECONDS)
    if code in THROTTLED or "Maximum sending rate exceeded" in message:
        return NotNow("the provider's sending rate is exceeded", RATE_SECONDS)
    if code in HELD:
        return NotNow(f"the provider has stopped this account's mail: {code}", PAUSE_SECONDS)
    if "not verified" in message and sender in message:  # every mail would be refused alike, until an operator acts
        return NotNow(f"{sender} is no verified identity of the provider", PAUSE_SECONDS)
    if code in REFUSED:
        # The address that SES quotes is personal data; the ledger holds reasons, not addresses.
        return Refused(f"the provider refused the mail: {code}: {ADDRESS.sub('(address)', message)}")
    if error.response["ResponseMetadata"].get("HTTPStatusCode", 500) >= 500:
        return InDoubt(f"the provider failed while it had the mail: {code}")
    return error if isinstance(error, Exception) else InDoubt(code)


def _broken(error: Any) -> Exception:
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, HTTPClientError

    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return NotNow("the provider cannot be reached", AWAY_SECONDS)
    if isinstance(error, HTTPClientError):
        return InDoubt(f"the connection to the provider broke: {type(error).__name__}")
    return error if isinstance(error, Exception) else InDoubt(str(error))
