"""What the mail workers read from the environment: once, at the edge, with an error that names what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from functions.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail leaves this system."""

    sender: str
    """The address mail comes from; its domain is a verified identity of SES."""
    unsubscribe_url: str
    """The page of the unsubscribe function; a token is added to it."""
    unsubscribe_secret_arn: str
    configuration_set: str | None
    """Without one SES reports nothing back."""
    attachment_bucket: str | None
    """The one bucket that attachments may come from."""
    app_url: str | None
    """Where readers see all that a mail lists; without it lists have no button."""


def load_settings(environ: Mapping[str, str] = os.environ) -> MailSettings:
    """Read the settings. Raises `ConfigurationError` naming the missing variable."""
    return MailSettings(
        sender=_required(environ, "MAIL_SENDER", "the address that mail comes from"),
        unsubscribe_url=_required(environ, "UNSUBSCRIBE_URL", "the unsubscribe function's URL"),
        unsubscribe_secret_arn=unsubscribe_secret(environ),
        configuration_set=environ.get("MAIL_CONFIGURATION_SET") or None,
        attachment_bucket=environ.get("ATTACHMENT_BUCKET") or None,
        app_url=environ.get("APP_URL") or None,
    )


def unsubscribe_secret(environ: Mapping[str, str] = os.environ) -> str:
    """The ARN of the secret that signs unsubscribe links, all that the unsubscribe function needs of these."""
    return _required(environ, "UNSUBSCRIBE_SECRET_ARN", "the secret that signs unsubscribe links")


@cache
def settings() -> MailSettings:
    """The process's settings."""
    return load_settings()


@cache
def unsubscribe_key(secret_arn: str) -> bytes:
    """The key that signs unsubscribe links. A changed secret ends the links that the old one signed."""
    from functions.aws.secrets import secret_value

    return secret_value(secret_arn).encode()


def _required(environ: Mapping[str, str], name: str, what: str) -> str:
    value = environ.get(name)
    if not value:
        raise ConfigurationError(f"{name} is not set: it is {what}, and template.yaml sets it")
    return value
