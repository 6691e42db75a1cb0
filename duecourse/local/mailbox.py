"""The mails that the emulator took for delivery, to be read in the terminal or as pages in a browser."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

from duecourse.local.errors import LocalError

TIMEOUT_SECONDS = 10
INDEX = "index.html"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Mailbox</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2733 }}
table {{ border-collapse: collapse; width: 100% }} td, th {{ text-align: left; padding: .4rem .8rem .4rem 0 }}
tr + tr {{ border-top: 1px solid #dde3ea }} td.time {{ color: #5b6b7c; white-space: nowrap }} a {{ color: #1f4e79 }}
</style><h1>{count} mails</h1>
<table><tr><th>time<th>to<th>subject</tr>{rows}</table></html>
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as it was handed to SES."""

    id: str
    at: datetime
    sender: str
    to: tuple[str, ...]
    subject: str
    text: str
    html: str | None


def mails(endpoint: str) -> list[Mail]:
    """Every mail since the emulator started, oldest first. Raises `LocalError` where it is no ministack."""
    try:
        with urlopen(f"{endpoint}/_ministack/ses/messages", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - ours
            found = [item for items in json.load(answer)["messages"].values() for item in items]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise LocalError(f"no mailbox at {endpoint} ({error}): only the emulator of `duecourse up` has one") from None
    return sorted((_mail(item) for item in found), key=lambda mail: mail.at)


def write_pages(found: list[Mail], directory: Path) -> Path:
    """Write each mail as a page, and an index of them, newest first. Returns the index."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, mail in reversed(list(enumerate(found, start=1))):
        body = mail.html or f"<pre>{html.escape(mail.text)}</pre>"
        (directory / f"{number}.html").write_text(body)
        (directory / f"{number}.txt").write_text(mail.text)
        cells = [html.escape(text) for text in (f"{mail.at:%H:%M:%S}", ", ".join(mail.to), mail.subject)]
        link = f'<a href="{number}.html">{cells[2]}</a> · <a href="{number}.txt">text</a>'
        rows.append(f'<tr><td class="time">{cells[0]}<td>{cells[1]}<td>{link}</tr>')
    index = directory / INDEX
    index.write_text(PAGE.format(count=len(found), rows="".join(rows)))
    return index


def _mail(item: dict[str, object]) -> Mail:
    to = item.get("To")
    return Mail(
        id=str(item["MessageId"]),
        at=datetime.fromtimestamp(float(str(item["Timestamp"])), UTC),
        sender=str(item.get("Source", "")),
        to=tuple(map(str, to)) if isinstance(to, list) else (),
        subject=str(item.get("Subject") or ""),
        text=str(item.get("BodyText") or ""),
        html=str(item["BodyHtml"]) if item.get("BodyHtml") else None,
    )
