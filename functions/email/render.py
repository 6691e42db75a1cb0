"""A mail from its type, what it says, and how its firm and its reader want it: subject, plain text and HTML.

templates/*.txt hold the subject and the text, templates/*.html the HTML, which `duecourse email build` makes from
templates/src/. All words are in texts/*.toml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from pydantic import BaseModel

from functions.core.errors import DuecourseError
from functions.email.colors import palette
from functions.email.contents import CONTENTS, Item, Items
from functions.email.fields import LINE_LENGTH, check_line, check_url
from functions.email.locales import FALLBACK, UnknownLocale, Voice, choose, parse
from functions.email.urgency import Arranged, arrange

TEMPLATES: Final = Path(__file__).parent / "templates"


class UnfitForMail(DuecourseError):
    """A mail of this type cannot be made of this; the message says what is wrong, without the values."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a mail looks to one reader: the firm it comes from, and the reader's language and clock.

    Raises `UnfitForMail` for names with line breaks or control characters (header injection), a colour that is not
    like #1f4e79, a link that is not https, and an unknown locale or time zone. A locale that is known but has no texts
    falls back instead (`locales.choose`).
    """

    tenant_name: str
    color: str
    logo_url: str | None
    locale: str
    time_zone: str
    recipient_name: str
    unsubscribe_url: str | None
    """None: the mail is critical and cannot be unsubscribed from."""
    tenant_locale: str = FALLBACK
    """The firm's own, for a reader whose locale has no texts."""

    def __post_init__(self) -> None:
        for name in ("tenant_name", "recipient_name", "color", "logo_url", "unsubscribe_url", "locale", "time_zone"):
            value = getattr(self, name)
            try:
                if value is not None:
                    _CHECKS[name](value)
            except (ValueError, ZoneInfoNotFoundError, OSError) as error:
                reason = "is not known" if name == "time_zone" else str(error)
                raise UnfitForMail(f"{name}: {reason}") from None
            except UnknownLocale as error:
                raise UnfitForMail(str(error)) from None
        if not self.tenant_name.strip():
            raise UnfitForMail("tenant_name: must not be empty")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A mail as its reader gets it."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Row:
    """One obligation as the reader sees it."""

    title: str
    about: tuple[str, ...]
    when: str


def render(mail_type: str, model: BaseModel, look: Look) -> Rendered:
    """Render a mail.

    Raises `UnfitForMail` when the type is unknown or the model is not the type's (CONTENTS).
    A value that a template wants and is not given raises jinja2's `UndefinedError`.
    """
    expected = CONTENTS.get(mail_type)
    if expected is None:
        raise UnfitForMail(f"unknown mail type {mail_type!r}; there are: {', '.join(CONTENTS)}")
    if not isinstance(model, expected):
        raise UnfitForMail(f"{mail_type} is rendered from {expected.__name__}, not from {type(model).__name__}")
    context = _context(mail_type, model, look)
    text = _template(f"{mail_type}.txt")
    subject = _subject(text, context)
    html = _template(f"{mail_type}.html")
    return Rendered(subject, _tidy(text.render(context)), html.render(context | {"subject": subject}))


def _context(mail_type: str, model: BaseModel, look: Look) -> dict[str, Any]:
    voice = Voice(choose(look.locale, look.tenant_locale), look.time_zone)
    context: dict[str, Any] = {
        "type": mail_type,
        "it": model,
        "look": look,
        "palette": palette(look.color),
        "voice": voice,
        "say": voice.say,
        "start": "left" if voice.direction == "ltr" else "right",
        "end": "right" if voice.direction == "ltr" else "left",
        "paragraphs": paragraphs,
    }
    if isinstance(model, Items):
        context |= _list(mail_type, arrange(model.items), voice)
    return context


def _list(mail_type: str, arranged: Arranged, voice: Voice) -> dict[str, Any]:
    things = voice.say(f"{mail_type}.things", count=arranged.count)
    headline = things
    for urgency in ("overdue", "today"):
        if count := arranged.count_of(urgency):
            headline = voice.say(f"items.with_{urgency}", things=things, count=count)
            break
    groups = [
        (group.urgency, voice.say(f"items.group_{group.urgency}"), [_row(item, voice) for item in group.shown])
        for group in arranged.groups
        if group.shown
    ]
    only = arranged.groups[0].shown[0] if arranged.count == 1 and mail_type != "digest" else None
    return {
        "things": things,
        "headline": headline
        if only is None
        else voice.say("items.single", title=only.title, client=only.client_name, date=_date(only, voice)),
        "groups": groups,
        "hidden": arranged.hidden,
    }


def _row(item: Item, voice: Voice) -> Row:
    if item.days_left in _NAMED_DAYS:
        when = voice.say(_NAMED_DAYS[item.days_left])
    else:
        when = voice.say(f"items.days_{'left' if item.days_left > 0 else 'overdue'}", count=abs(item.days_left))
    return Row(voice.apart(item.title), (voice.apart(item.client_name), _date(item, voice)), when)


def _date(item: Item, voice: Voice) -> str:
    key = "items.document_date" if item.category == "document_expiry" else "items.filing_date"
    return voice.say(key, date=voice.date(item.due_date))


def _subject(text: Template, context: dict[str, Any]) -> str:
    """The subject block of the text template: one line, cut where it is too long to be read anywhere."""
    subject = " ".join("".join(text.blocks["subject"](text.new_context(context))).split())
    check_line(subject.translate(_ISOLATES))
    return subject if len(subject) <= LINE_LENGTH else subject[: LINE_LENGTH - 1].rstrip() + "…"


def _tidy(text: str) -> str:
    """At most one empty line in a row, none at either end, one line feed at the end."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept) + "\n"


def paragraphs(text: str) -> list[list[str]]:
    """The paragraphs of a caller's text, each a list of its lines."""
    blocks = "\n".join(line.rstrip() for line in text.split("\n")).split("\n\n")
    return [block.strip("\n").split("\n") for block in blocks if block.strip()]


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("html",), default_for_string=True),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Template:
    """Compiled on first use, then kept by the environment: a worker compiles only the types it sends."""
    return _environment().get_template(name)


def _check_color(value: str) -> None:
    palette(value)


_NAMED_DAYS: Final = {0: "items.today", 1: "items.tomorrow"}
_ISOLATES: Final = {0x2068: None, 0x2069: None}
_CHECKS: Final[dict[str, Any]] = {
    "tenant_name": check_line,
    "recipient_name": check_line,
    "color": _check_color,
    "logo_url": check_url,
    "unsubscribe_url": check_url,
    "locale": parse,
    "time_zone": ZoneInfo,
}
