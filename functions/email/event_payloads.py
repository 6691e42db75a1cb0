"""The contract of `email.event`: what SES reports of a mail, as EventBridge carries it in `detail`.

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Address = Annotated[str, Field(max_length=500)]


class _Part(BaseModel):
    """Part of an event; SES adds fields now and then."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class BouncedRecipient(_Part):
    """Whom a mail did not reach, and what the receiving server said."""

    address: Annotated[Address, Field(alias="emailAddress")]
    diagnostic: Annotated[str | None, Field(alias="diagnosticCode")] = None


class Bounce(_Part):
    """A mail that came back: `Permanent` for ever, `Transient` this time, `Undetermined`."""

    kind: Annotated[str, Field(alias="bounceType")]
    subtype: Annotated[str, Field(alias="bounceSubType")] = ""
    recipients: Annotated[tuple[BouncedRecipient, ...], Field(alias="bouncedRecipients")]
    timestamp: AwareDatetime


class ComplainedRecipient(_Part):
    """Who may have said that a mail is spam."""

    address: Annotated[Address, Field(alias="emailAddress")]


class Complaint(_Part):
    """A reader said that a mail is spam."""

    recipients: Annotated[tuple[ComplainedRecipient, ...], Field(alias="complainedRecipients")]
    feedback: Annotated[str | None, Field(alias="complaintFeedbackType")] = None
    timestamp: AwareDatetime


class Delivery(_Part):
    """The receiving server took the mail."""

    timestamp: AwareDatetime
    recipients: tuple[Address, ...] = ()


class Delay(_Part):
    """SES goes on trying."""

    kind: Annotated[str, Field(alias="delayType")] = ""
    timestamp: AwareDatetime


class Reject(_Part):
    """SES took the mail and then found a virus in it."""

    reason: str = ""


class SentMail(_Part):
    """The mail that an event is about, with the tags it was sent with."""

    timestamp: AwareDatetime
    message_id: Annotated[str, Field(alias="messageId", max_length=200)]
    destination: tuple[Address, ...] = ()
    tags: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    def tag(self, name: str) -> UUID | None:
        """The id in a tag; None where there is none: not one of our mails, or not sent by this release."""
        try:
            return UUID(self.tags[name][0])
        except (KeyError, IndexError, ValueError):
            return None


class EmailEvent(_Part):
    """One event of one mail."""

    event_type: Annotated[str, Field(alias="eventType", max_length=50)]
    mail: SentMail
    bounce: Bounce | None = None
    complaint: Complaint | None = None
    delivery: Delivery | None = None
    delay: Annotated[Delay | None, Field(alias="deliveryDelay")] = None
    reject: Reject | None = None

    @property
    def at(self) -> AwareDatetime:
        """When it happened. Send and Reject have no time of their own: the mail's."""
        part = self.bounce or self.complaint or self.delivery or self.delay
        return self.mail.timestamp if part is None else part.timestamp
