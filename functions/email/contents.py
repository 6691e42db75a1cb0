"""What a mail says, as it stands when the mail is sent: the models that render.py takes.

`welcome`, `password_reset` and `custom` say what their payloads say. Names and titles here come out of our own tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, StringConstraints

from functions.email import payloads
from functions.email.fields import Cleaned, Contract, FileName, Text, Url


class Item(Contract):
    """One obligation in a warning, a reminder or a digest."""

    category: Literal["document_expiry", "filing"]
    title: Cleaned
    client_name: Cleaned
    due_date: date
    days_left: Annotated[int, Field(ge=-36_500, le=36_500)]
    """Days from the reader's today to the due date; negative: overdue."""


class Items(Contract):
    """What `document_expiry_warning`, `filing_reminder` and `digest` list, in any order."""

    items: Annotated[tuple[Item, ...], Field(min_length=1)]
    url: Url | None = None
    """Where the reader sees them all."""


class Task(Contract):
    """What `task_assignment` tells of."""

    title: Cleaned
    client_name: Cleaned
    due_date: date | None
    url: Url | None = None


class ServiceRequest(Contract):
    """What `service_request_update` tells of."""

    title: Cleaned
    status: Literal["open", "in_progress", "waiting", "resolved", "closed"]
    note: Text | None = None
    url: Url | None = None


class AttachedFile(Contract):
    """An attachment as the mail names it."""

    file_name: FileName
    size: Annotated[int, Field(ge=1)]


class InvoiceDue(Contract):
    """What `invoice` tells of."""

    number: Cleaned
    amount: Annotated[Decimal, Field(max_digits=14, decimal_places=2, allow_inf_nan=False)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    due_date: date
    attachments: tuple[AttachedFile, ...] = ()
    note: Text | None = None
    url: Url | None = None


CONTENTS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "welcome": payloads.Welcome,
        "document_expiry_warning": Items,
        "filing_reminder": Items,
        "task_assignment": Task,
        "service_request_update": ServiceRequest,
        "password_reset": payloads.PasswordReset,
        "invoice": InvoiceDue,
        "custom": payloads.Custom,
        "digest": Items,
    }
)
"""The model each mail type is rendered from."""
