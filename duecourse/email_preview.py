"""Mails to look at: invented ones, one of each type, as `duecourse email` shows them and tests render them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from functions.core.errors import DuecourseError
from functions.email import contents, payloads
from functions.email.render import Look, Rendered, render

TODAY: Final = date(2026, 3, 2)
SITE: Final = "https://app.example.com"
LOOK: Final = Look(
    tenant_name="Hartwell & Moss",
    color="#1f4e79",
    logo_url=None,
    locale="en_GB",
    time_zone="Europe/London",
    recipient_name="Clara Whitfield",
    unsubscribe_url=f"{SITE}/unsubscribe/example",
)
WITHOUT_UNSUBSCRIBE: Final = frozenset({"password_reset"})
_SOMEBODY: Final = UUID("01979f3a-0000-7000-8000-000000000001")
_TITLES: Final = {
    "document_expiry": ("Passport", "Proof of address", "Certificate of good standing", "Signed engagement letter"),
    "filing": ("VAT return Q4", "Annual accounts 2025", "Payroll report February", "Confirmation statement"),
}
_CLIENTS: Final = ("Ashdown Joinery Ltd", "Marlow & Daughters", "Pemberton Logistics plc", "Otterburn Dairy")


def sample(mail_type: str) -> BaseModel:
    """What the invented mail of a type says. Raises `DuecourseError`, naming the types, for any other name."""
    if mail_type not in contents.CONTENTS:
        raise DuecourseError(f"unknown mail type {mail_type!r}; there are: {', '.join(contents.CONTENTS)}")
    return _SAMPLES[mail_type]


def preview(
    mail_type: str, *, locale: str | None = None, color: str | None = None, logo_url: str | None = None
) -> Rendered:
    """The invented mail of a type, in the look of a firm. Raises `DuecourseError` for what no mail can have."""
    model = sample(mail_type)
    look = replace(LOOK, locale=locale or LOOK.locale, color=color or LOOK.color, logo_url=logo_url)
    if mail_type in WITHOUT_UNSUBSCRIBE:
        look = replace(look, unsubscribe_url=None)
    return render(mail_type, model, look)


def write(mail_type: str, mail: Rendered, folder: Path) -> tuple[Path, Path]:
    """Write a mail as TYPE.html and TYPE.txt; the text begins with its subject."""
    folder.mkdir(parents=True, exist_ok=True)
    html, text = folder / f"{mail_type}.html", folder / f"{mail_type}.txt"
    html.write_text(mail.html, encoding="utf-8")
    text.write_text(f"Subject: {mail.subject}\n\n{mail.text}", encoding="utf-8")
    return html, text


def write_gallery(folder: Path, *, locale: str | None = None, color: str | None = None) -> Path:
    """Write every mail, and index.html, which shows all of them wide, narrow and as text."""
    cards = []
    for mail_type in contents.CONTENTS:
        mail = preview(mail_type, locale=locale, color=color)
        write(mail_type, mail, folder)
        cards.append(
            f"<section><h2>{mail_type}</h2><p>{escape(mail.subject)}</p><div>"
            + "".join(
                f'<iframe title="{mail_type}, {width} px" style="width:{width}px" src="{mail_type}.html"></iframe>'
                for width in (800, 375)
            )
            + f"<pre>{escape(mail.text)}</pre></div></section>"
        )
    index = folder / "index.html"
    index.write_text(_GALLERY.format(cards="\n".join(cards)), encoding="utf-8")
    return index


def _item(category: str, number: int, days_left: int) -> contents.Item:
    titles = _TITLES[category]
    return contents.Item.model_validate(
        {
            "category": category,
            "title": titles[number % len(titles)],
            "client_name": _CLIENTS[(number + len(category)) % len(_CLIENTS)],
            "due_date": TODAY + timedelta(days=days_left),
            "days_left": days_left,
        }
    )


def _items(category: str, *days_left: int) -> tuple[contents.Item, ...]:
    return tuple(_item(category, number, days) for number, days in enumerate(days_left))


_SAMPLES: Final[dict[str, BaseModel]] = {
    "welcome": payloads.Welcome(
        recipient_kind="client",
        recipient_id=_SOMEBODY,
        url=f"{SITE}/welcome/example",
        message="We look forward to working with you.\n\nIf anything is unclear, simply reply to this mail.",
    ),
    "document_expiry_warning": contents.Items(items=_items("document_expiry", 3, 14, 30), url=f"{SITE}/documents"),
    "filing_reminder": contents.Items(items=_items("filing", 0, 3, -2), url=f"{SITE}/filings"),
    "task_assignment": contents.Task(
        title="Reconcile the February bank statements",
        client_name="Marlow & Daughters",
        due_date=date(2026, 3, 6),
        url=f"{SITE}/tasks/example",
    ),
    "service_request_update": contents.ServiceRequest(
        title="Change of registered office",
        status="waiting",
        note="We have prepared the form. Please sign it and send it back to us.\n\nThe new address takes effect on"
        " the day of filing.",
        url=f"{SITE}/requests/example",
    ),
    "password_reset": payloads.PasswordReset(
        recipient_kind="user",
        recipient_id=_SOMEBODY,
        url=f"{SITE}/reset/Zm9yLXlvdXItZXllcy1vbmx5",
        expires_at=datetime(2026, 3, 2, 15, 30, tzinfo=UTC),
    ),
    "invoice": contents.InvoiceDue(
        number="2026-0117",
        amount=Decimal("1480.50"),
        currency="GBP",
        due_date=date(2026, 3, 31),
        attachments=(
            contents.AttachedFile(file_name="Invoice 2026-0117.pdf", size=184_320),
            contents.AttachedFile(file_name="Timesheet February.xlsx", size=1_572_864),
        ),
        note="Thank you for the good work together.",
        url=f"{SITE}/invoices/example",
    ),
    "custom": payloads.Custom(
        recipient_kind="client",
        recipient_id=_SOMEBODY,
        subject="Our office is closed on Friday",
        body="On Friday, 6 March, our office is closed for a day of training.\n\nFor what cannot wait:\nTelephone"
        " 020 7946 0018, from 9 to 12.\n\nFrom Monday we are here for you again as usual.",
        link=payloads.Link(label="Our opening hours", url=f"{SITE}/hours"),
    ),
    "digest": contents.Items(
        items=_items("filing", -2, 0, 3, 12) + _items("document_expiry", 1, 7, 14, 30), url=f"{SITE}/today"
    ),
}

_GALLERY: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>All mails</title>
<meta name="color-scheme" content="light dark">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 32px; }}
section {{ margin-bottom: 48px; }}
h2 {{ margin: 0; font-size: 18px; }} p {{ margin: 4px 0 12px; }}
div {{ display: flex; gap: 16px; overflow-x: auto; }}
iframe, pre {{ flex: none; height: 760px; margin: 0; box-sizing: border-box; border: 1px solid #8886; }}
pre {{ width: 480px; padding: 16px; overflow: auto; white-space: pre-wrap; }}
</style></head><body>
<h1>All mails</h1>
{cards}
</body></html>
"""
