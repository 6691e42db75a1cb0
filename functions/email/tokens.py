"""The signed token in an unsubscribe link: whose mail of which categories ends. It names ids, never an address."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from functions.core.errors import DuecourseError

VALID_FOR = timedelta(days=180)
"""How long after sending a link works; the law of some countries asks for 30 days and more."""
SIGNATURE_BYTES = 32
LONGEST = 2000


class ForgedToken(DuecourseError):
    """The token was not made by this system, or was cut short on its way."""


class ExpiredToken(DuecourseError):
    """The token was good once; the mail that carried it is too old."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A recipient and the categories of mail that a link ends."""

    tenant_id: UUID
    recipient_kind: str
    recipient_id: UUID
    categories: tuple[str, ...]


def make_token(key: bytes, subscription: Subscription, *, now: datetime) -> str:
    """A token for a link, in characters that need no escaping in a URL."""
    body = json.dumps(
        [
            str(subscription.tenant_id),
            subscription.recipient_kind,
            str(subscription.recipient_id),
            list(subscription.categories),
            int((now + VALID_FOR).timestamp()),
        ],
        separators=(",", ":"),
    ).encode()
    return _text(_sign(key, body) + body)


def read_token(key: bytes, token: str, *, now: datetime) -> Subscription:
    """What the token says. Raises `ForgedToken` or `ExpiredToken`."""
    try:
        raw = base64.urlsafe_b64decode(token[:LONGEST].encode() + b"=" * (-len(token) % 4))
    except (ValueError, binascii.Error):
        raise ForgedToken("the link is damaged: use it exactly as the mail has it") from None
    signature, body = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(key, body)) or _text(raw) != token:
        raise ForgedToken("the link is damaged: use it exactly as the mail has it")
    tenant_id, kind, recipient_id, categories, expires = json.loads(body)
    if now > datetime.fromtimestamp(expires, tz=UTC):
        raise ExpiredToken("the link has expired: use the one in a more recent mail")
    return Subscription(UUID(tenant_id), kind, UUID(recipient_id), tuple(categories))


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, b"unsubscribe\n" + body, sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
