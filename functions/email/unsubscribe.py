"""Lambda `unsubscribe`, behind its own URL: a POST unsubscribes at once (RFC 8058), a GET shows a page with a button.

A GET changes nothing: mail scanners follow every link.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from http import HTTPStatus
from typing import Any

from functions.db.deadline import deadline
from functions.email.queries import switch_off
from functions.email.settings import unsubscribe_key, unsubscribe_secret
from functions.email.tokens import ExpiredToken, ForgedToken, Subscription, read_token

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><meta name="color-scheme" content="light dark"><title>{title}</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1.5rem}}
button{{font:inherit;padding:.6rem 1.4rem;cursor:pointer}}</style></head>
<body><h1>{title}</h1><p>{text}</p>{form}</body></html>
"""
FORM = '<form method="post"><button type="submit">Unsubscribe</button></form>'
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}
NAMES: Mapping[str, str] = {
    "document_expiry": "documents that expire",
    "filing": "filings that fall due",
    "welcome": "your access",
    "task": "tasks",
    "service_request": "service requests",
    "invoice": "invoices",
    "custom": "other news",
}


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Serve a request to the function's URL (payload format 2.0)."""
    method = event["requestContext"]["http"]["method"]
    token = (event.get("queryStringParameters") or {}).get("token", "")
    try:
        with deadline(context):
            return respond(method, token, now=datetime.now(UTC))
    except Exception as error:
        from functions.db.engine import is_outage

        if not is_outage(error):
            raise
        return _page(HTTPStatus.SERVICE_UNAVAILABLE, "Not now", "Please try again in a few minutes.")


def respond(method: str, token: str, *, now: datetime) -> dict[str, Any]:
    """The answer to a request."""
    if method not in {"GET", "HEAD", "POST"}:
        return _page(HTTPStatus.METHOD_NOT_ALLOWED, "Not possible", "Open the link from the mail in a browser.")
    try:
        found = read_token(unsubscribe_key(unsubscribe_secret()), token, now=now)
    except ForgedToken as error:
        return _page(HTTPStatus.BAD_REQUEST, "This link does not work", str(error))
    except ExpiredToken as error:
        return _page(HTTPStatus.GONE, "This link has expired", str(error))
    if method != "POST":
        return _page(HTTPStatus.OK, "Unsubscribe?", f"You would get no more mail about {_about(found)}.", FORM)
    _unsubscribe(found)
    return _page(HTTPStatus.OK, "You are unsubscribed", f"You will get no more mail about {_about(found)}.")


def _unsubscribe(found: Subscription) -> None:
    from functions.db.engine import transaction
    from functions.pipeline import observe

    with transaction() as tx:
        switch_off(tx, found.tenant_id, found.recipient_kind, found.recipient_id, found.categories)
    observe.logger().info(
        "unsubscribed",
        tenant_id=str(found.tenant_id),
        recipient=f"{found.recipient_kind}/{found.recipient_id}",
        categories=list(found.categories),
    )


def _about(found: Subscription) -> str:
    return " and ".join(NAMES.get(category, category) for category in found.categories)


def _page(status: HTTPStatus, title: str, text: str, form: str = "") -> dict[str, Any]:
    body = PAGE.format(title=escape(title), text=escape(text), form=form)
    return {"statusCode": int(status), "headers": dict(HEADERS), "body": body}
