"""The contracts of the mail jobs, one per e-mail type: whom to write to, and about what.

They refer to people and things by id; names and addresses are looked up when the mail is sent (contents.py).
`welcome` and `custom` also carry the text that the caller gave.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints, field_validator, model_validator

from functions.email.fields import Contract, FileName, Line, Text, Url

MAX_ATTACHMENTS: Final = 10
MAX_ATTACHMENT_BYTES: Final = 7 * 1024 * 1024
"""All attachments of a mail together, before encoding. Base64 makes 7 MB into 9.6 MB: SES takes 40 MB, but many
receivers refuse a mail over 10 MB. https://docs.aws.amazon.com/ses/latest/dg/quotas.html"""


class Recipient(Contract):
    """Whom the mail goes to: a user or a client of the job's tenant, never an address."""

    recipient_kind: Literal["user", "client"]
    recipient_id: UUID

    @field_validator("recipient_id", mode="before")
    @classmethod
    def _only_one(cls, value: object) -> object:
        if isinstance(value, list | tuple | set):
            raise ValueError("a mail goes to one recipient: order a job for each")
        return value


class Link(Contract):
    """A button: where it leads, and what it says."""

    label: Annotated[Line, Field(max_length=60)]
    url: Url


class Attachment(Contract):
    """A file in S3 that the mail carries. `size` is what the sender checks the object against."""

    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    key: Annotated[str, Field(min_length=1, max_length=1024)]
    file_name: FileName
    content_type: Annotated[str, StringConstraints(max_length=127, pattern=r"^[\w.+-]+/[\w.+-]+$")]
    size: Annotated[int, Field(ge=1, le=MAX_ATTACHMENT_BYTES)]


class Welcome(Recipient):
    """A user or a client has been given access; `url` signs in for the first time."""

    url: Url
    message: Text | None = None


class TaskAssignment(Recipient):
    """A task is now the recipient's."""

    task_id: UUID
    url: Url | None = None


class ServiceRequestUpdate(Recipient):
    """Something has happened to a service request; its status is the one at the time of sending."""

    service_request_id: UUID
    note: Text | None = None
    url: Url | None = None


class PasswordReset(Recipient):
    """The link with which the recipient sets a new password, until it expires."""

    url: Url
    expires_at: AwareDatetime


class Invoice(Recipient):
    """An invoice, with its files."""

    invoice_id: UUID
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=MAX_ATTACHMENTS)] = ()
    note: Text | None = None
    url: Url | None = None

    @model_validator(mode="after")
    def _within_the_limit(self) -> Self:
        if sum(attachment.size for attachment in self.attachments) > MAX_ATTACHMENT_BYTES:
            raise ValueError(f"the attachments together are over {MAX_ATTACHMENT_BYTES} bytes")
        names = [attachment.file_name.casefold() for attachment in self.attachments]
        if len(set(names)) < len(names):
            raise ValueError("two attachments have the same file name")
        return self


class Custom(Recipient):
    """A mail in the caller's own words, in the firm's own layout."""

    subject: Line
    body: Text
    link: Link | None = None


class Notice(Recipient):
    """Base of the mails about obligations: what they list is found when they are sent."""

    local_date: date
    """The tenant's local date on which it was planned."""


class DocumentExpiryWarning(Notice):
    """Documents that expire, for a reader who wants to hear at once."""


class FilingReminder(Notice):
    """Filings that fall due, for a reader who wants to hear at once."""


class Digest(Notice):
    """Everything routine of one reader's day, in one mail."""
