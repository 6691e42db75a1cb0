"""What sets the mail job types apart when they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Kind:
    """One e-mail type as the sender sees it."""

    mail_type: str
    """Its name in render.py."""
    categories: tuple[str, ...] = ()
    """What its unsubscribe link ends; a recipient who has switched off all of them gets none."""
    critical: bool = False
    """Not held back by preferences, quiet hours, the breaker or the daily limits; it has a reserve of its own."""
    lists: Literal["all", "document_expiry", "filing"] | None = None
    """Which pending notices it lists, if any."""


OBLIGATIONS: Final = ("document_expiry", "filing")

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "email.welcome": Kind("welcome", ("welcome",)),
        "email.task_assignment": Kind("task_assignment", ("task",)),
        "email.service_request_update": Kind("service_request_update", ("service_request",)),
        "email.invoice": Kind("invoice", ("invoice",)),
        "email.custom": Kind("custom", ("custom",)),
        "email.password_reset": Kind("password_reset", critical=True),
        "email.document_expiry_warning": Kind("document_expiry_warning", ("document_expiry",), lists="document_expiry"),
        "email.filing_reminder": Kind("filing_reminder", ("filing",), lists="filing"),
        "email.digest": Kind("digest", OBLIGATIONS, lists="all"),
    }
)
