"""The reader's language: which texts a mail uses, and how its dates, times and numbers are written.

A mail is in one language throughout. A locale is a language with texts (texts/*.toml) and any territory: `de_AT` is
German with Austrian dates. A locale without texts of its own falls back as a whole: the reader's, the firm's, English.
"""

from __future__ import annotations

import tomllib
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time, get_datetime_format
from babel.numbers import format_currency, format_decimal

from functions.core.errors import DuecourseError

FALLBACK: Final = "en"
TEXTS: Final = Path(__file__).parent / "texts"
LANGUAGES: Final = tuple(sorted(path.stem for path in TEXTS.glob("*.toml")))

Message = str | dict[str, str]
_KIB: Final = 1024
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


class UnknownLocale(DuecourseError):
    """No locale has this name; the message shows what one looks like."""


def parse(name: str) -> Locale:
    """The locale of a name such as `de`, `pt_BR` or `pt-BR`. Raises `UnknownLocale`: refuse such a name at the edge."""
    try:
        return Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        shown = name[:40]
        raise UnknownLocale(f"{shown!r} is no locale that is known here: write it like en, de_AT or pt-BR") from None


def has_texts(name: str) -> bool:
    """Whether mails can be written in this locale. Raises `UnknownLocale`."""
    return parse(name).language in LANGUAGES


def choose(reader: str | None, tenant: str) -> str:
    """The locale to write in: the reader's, or the firm's, or English. Logs what had to be passed over, and why."""
    from functions.pipeline import observe

    for name in filter(None, (reader, tenant)):
        try:
            if has_texts(name):
                return name
            why = "there are no texts in this language"
        except UnknownLocale as error:
            why = str(error)
        observe.logger().warning("locale_passed_over", locale=name, why=why)
    return FALLBACK


class Voice:
    """One reader's language, formats and time zone. Templates know it as `voice`."""

    def __init__(self, locale: str, time_zone: str) -> None:
        self.locale: Final = parse(locale)
        if self.locale.language not in LANGUAGES:
            raise UnknownLocale(f"there are no texts for {locale!r}: choose among {', '.join(LANGUAGES)}")
        self.zone: Final = ZoneInfo(time_zone)
        self.direction: Final = self.locale.text_direction
        self.tag: Final = str(self.locale).replace("_", "-")
        self._texts: Final = texts(self.locale.language)

    def say(self, key: str, /, *, count: int | None = None, **values: object) -> str:
        """A text by its key, `section.name`; with `count`, in the form that the language has for that number.

        Raises `KeyError` for a key that does not exist or a value that the text wants and is not given.
        """
        message = self._texts[key]
        shown = {name: self.apart(value) if isinstance(value, str) else value for name, value in values.items()}
        if count is not None:
            shown["count"] = self.number(count)
        if isinstance(message, dict):
            if count is None:
                raise KeyError("count")
            message = message.get(self.locale.plural_form(count), message["other"])
        return message.format(**shown)

    def date(self, value: date) -> str:
        return format_date(value, "long", locale=self.locale)

    def time(self, value: datetime) -> str:
        """An instant on the reader's clock, with the zone's distance from GMT."""
        local = value.astimezone(self.zone)
        clock = format_time(local, "short", self.zone, self.locale)
        together = str(get_datetime_format("medium", locale=self.locale))
        return f"{together.format(clock, self.date(local))} ({_distance(local)})"

    def money(self, amount: Decimal, currency: str) -> str:
        return format_currency(amount, currency, locale=self.locale)

    def number(self, value: int) -> str:
        return format_decimal(value, locale=self.locale)

    def size(self, size: int) -> str:
        """Bytes as people read them: in KB, or MB of 1024 KB."""
        kilobytes = max(1, round(size / _KIB))
        if kilobytes < _KIB:
            return f"{self.number(kilobytes)}\u00a0KB"
        return f"{format_decimal(round(kilobytes / _KIB, 1), locale=self.locale)}\u00a0MB"

    @staticmethod
    def opening(text: str) -> str:
        """A text as the beginning of a line: its first letter large."""
        return text[:1].upper() + text[1:]

    def apart(self, value: str) -> str:
        """A name in a script of the other direction, fenced so that it does not reorder the text around it."""
        other = "rtl" if self.direction == "ltr" else "ltr"
        return f"{_ISOLATE}{value}{_END_ISOLATE}" if other in _directions(value) else value


@cache
def texts(language: str) -> dict[str, Message]:
    """All texts of a language, by `section.name`."""
    with (TEXTS / f"{language}.toml").open("rb") as file:
        sections: dict[str, dict[str, Any]] = tomllib.load(file)
    return {f"{section}.{name}": text for section, entries in sections.items() for name, text in entries.items()}


def _distance(local: datetime) -> str:
    """The local clock's distance from GMT: `GMT`, `GMT+1`, `GMT-3:30`."""
    minutes = round((local.utcoffset() or timedelta()).total_seconds() / 60)
    if not minutes:
        return "GMT"
    hours, rest = divmod(abs(minutes), 60)
    return f"GMT{'+' if minutes > 0 else '-'}{hours}{f':{rest:02}' if rest else ''}"


def _directions(value: str) -> set[str]:
    from unicodedata import bidirectional

    names = {"L": "ltr", "R": "rtl", "AL": "rtl"}
    return {names[kind] for kind in map(bidirectional, value) if kind in names}
