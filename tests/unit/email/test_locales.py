"""Languages: every text is there in each, and every reader gets one that exists."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from string import Formatter

import pytest
from babel import Locale

from functions.email.locales import LANGUAGES, UnknownLocale, Voice, choose, has_texts, parse, texts
from functions.pipeline import observe

DAY = date(2026, 3, 3)
INSTANT = datetime(2026, 3, 3, 14, 5, tzinfo=UTC)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_the_languages() -> None:
    assert LANGUAGES == ("ar", "de", "en", "fr", "ja", "pt")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_with_the_same_values(language: str) -> None:
    english, own = texts("en"), texts(language)
    assert own.keys() == english.keys()
    for key, message in own.items():
        original = english[key]
        if isinstance(message, str):
            assert isinstance(original, str), key
            assert fields(message) == fields(original), key
        else:
            assert isinstance(original, dict), key
            # "one" and "two" may say the number in words.
            assert all(fields(form) <= {"count"} for form in message.values()), key
            assert fields(message["other"]) == {"count"}, key


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_a_form_for_every_number(language: str) -> None:
    needed = {Locale(language).plural_form(number) for number in range(1, 1_000)}
    for key, message in texts(language).items():
        if isinstance(message, dict):
            assert needed <= message.keys(), key


@pytest.mark.parametrize(
    ("locale", "day", "time", "money"),
    [
        ("en", "March 3, 2026", "March 3, 2026, 3:05 PM (GMT+1)", "€1,480.50"),
        ("en_GB", "3 March 2026", "3 March 2026, 15:05 (GMT+1)", "€1,480.50"),
        ("de", "3. März 2026", "3. März 2026, 15:05 (GMT+1)", "1.480,50 €"),
        ("fr", "3 mars 2026", "3 mars 2026, 15:05 (GMT+1)", "1 480,50 €"),
        ("pt-BR", "3 de março de 2026", "3 de março de 2026 15:05 (GMT+1)", "€ 1.480,50"),
        ("ja", "2026年3月3日", "2026年3月3日 15:05 (GMT+1)", "€1,480.50"),
        ("ar", "3 مارس 2026", "3 مارس 2026، 3:05 م (GMT+1)", "1,480.50 €"),
    ],
)
def test_dates_times_and_money_are_written_as_the_reader_writes_them(
    locale: str, day: str, time: str, money: str
) -> None:
    voice = Voice(locale, "Europe/Berlin")

    def plain(text: str) -> str:
        return re.sub(r"[\u00a0\u202f]", " ", text).replace("\u200f", "")

    assert plain(voice.date(DAY)) == day
    assert plain(voice.time(INSTANT)) == time
    assert plain(voice.money(Decimal("1480.50"), "EUR")) == money


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("Asia/Kathmandu", "GMT+5:45"), ("America/St_Johns", "GMT-3:30"), ("Europe/London", "(GMT)")],
)
def test_an_instant_is_on_the_readers_clock(zone: str, shown: str) -> None:
    assert shown in Voice("en", zone).time(INSTANT)


def test_direction() -> None:
    assert [Voice(locale, "UTC").direction for locale in ("ar", "ar_EG", "de", "ja")] == ["rtl", "rtl", "ltr", "ltr"]


def test_a_name_of_the_other_direction_is_fenced() -> None:
    assert Voice("ar", "UTC").apart("Acme") == "\u2068Acme\u2069"
    assert Voice("en", "UTC").apart("شركة") == "\u2068شركة\u2069"
    assert Voice("en", "UTC").apart("Acme") == "Acme"


@pytest.mark.parametrize("name", ["xx", "", "../en", "en\r\n", "e" * 300, "C", "de_DE_", "\x00"])
def test_an_unknown_locale_is_refused(name: str) -> None:
    with pytest.raises(UnknownLocale, match="write it like"):
        parse(name)


def test_a_locale_without_texts_is_known_but_no_mail_is_written_in_it() -> None:
    assert not has_texts("es_MX")
    with pytest.raises(UnknownLocale, match="choose among ar, de, en"):
        Voice("es_MX", "UTC")


@pytest.mark.parametrize(
    ("reader", "tenant", "chosen", "passed_over"),
    [
        ("de_AT", "en", "de_AT", []),
        (None, "fr", "fr", []),
        ("es", "fr", "fr", ["es"]),
        ("xx", "es", "en", ["xx", "es"]),
    ],
)
def test_the_readers_locale_then_the_firms_then_english(
    reader: str | None, tenant: str, chosen: str, passed_over: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []

    class Log:
        def warning(self, event: str, *, locale: str, why: str) -> None:
            assert event == "locale_passed_over"
            assert why
            logged.append(locale)

    monkeypatch.setattr(observe, "logger", Log)
    assert choose(reader, tenant) == chosen
    assert logged == passed_over


def test_a_text_that_is_not_given_its_values_is_an_error() -> None:
    voice = Voice("en", "UTC")
    for key in ("common.greeting", "digest.things", "no.such"):
        with pytest.raises(KeyError):
            voice.say(key)


def test_a_value_is_never_a_format() -> None:
    assert Voice("en", "UTC").say("common.greeting", name="{0.__class__}{count}") == "Hello {0.__class__}{count},"
