"""Every mail type, rendered: what its reader reads, and what no value can do to it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from pydantic import BaseModel

from duecourse.email_preview import LOOK, preview, sample
from functions.email import payloads
from functions.email.contents import CONTENTS, InvoiceDue, Item, Items, Task
from functions.email.fields import check_line, is_plain
from functions.email.render import Look, UnfitForMail, paragraphs, render

TYPES = tuple(CONTENTS)
LOCALES = ("en", "de", "fr", "pt_BR", "ja", "ar")
HOSTILE = "<script>x()</script><img src=x>\"'&{{ 7*7 }}{% raw %}"


class Page(HTMLParser):
    """The elements, attributes and visible words of an HTML mail."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"style", "title"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in self.tags]


def hostile(model: BaseModel, value: str) -> BaseModel:
    """The same mail with every free text replaced."""
    return type(model).model_validate(_replaced(model.model_dump(), value))


def _replaced(found: Any, value: str, name: str = "") -> Any:
    if isinstance(found, dict):
        return {key: _replaced(inner, value, key) for key, inner in found.items()}
    if isinstance(found, list | tuple):
        return [_replaced(inner, value, name) for inner in found]
    free = {"title", "client_name", "subject", "body", "message", "note", "number", "label"}
    return value if name in free and isinstance(found, str) else found


def look_of(mail_type: str, **changes: Any) -> Look:
    return replace(LOOK, **({"unsubscribe_url": None} if mail_type == "password_reset" else {}) | changes)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("mail_type", TYPES)
def test_every_type_in_every_language(mail_type: str, locale: str) -> None:
    mail = preview(mail_type, locale=locale)
    page = Page(mail.html)
    assert check_line(mail.subject.replace("\u2068", "").replace("\u2069", ""))
    assert dict(page.tags)["html"] == {"lang": locale.replace("_", "-"), "dir": "rtl" if locale == "ar" else "ltr"}
    assert not re.search(r"\{\{|\{%|\[\[|\[%|kept\d|Undefined|None", mail.html + mail.text + mail.subject)
    assert "\n\n\n" not in mail.text
    assert mail.text.endswith("\n")
    assert len(mail.html.encode()) < 102_000, "Gmail cuts a mail off at 102 kB"


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("mail_type", TYPES)
def test_text_and_html_carry_the_same_facts(mail_type: str, locale: str) -> None:
    """Every line of the text is in the HTML, links as targets; both have the same links."""
    mail = preview(mail_type, locale=locale)
    page = Page(mail.html)
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert set(re.findall(r"https://\S+", mail.text)) == links
    for line in re.sub(r"https://\S+", "", mail.text).splitlines():
        for words in re.split(r"[:：]\s|\s\(|\)$|^- ", line):
            wanted = " ".join(words.rstrip(": )").split())
            assert wanted.strip("-") in page.text, line


@pytest.mark.parametrize("mail_type", TYPES)
def test_no_value_becomes_html(mail_type: str) -> None:
    model = sample(mail_type)
    firm = {"tenant_name": HOSTILE, "recipient_name": HOSTILE}
    plain = Page(render(mail_type, hostile(model, "x"), look_of(mail_type, tenant_name="x", recipient_name="x")).html)
    mail = render(mail_type, hostile(model, HOSTILE), look_of(mail_type, **firm))
    page = Page(mail.html)
    assert page.shape == plain.shape
    assert "<script" not in mail.html
    assert HOSTILE in page.text
    assert HOSTILE in mail.text
    assert "{{ 7*7 }}" in mail.text


LINES = st.text(st.characters(codec="utf-8").filter(is_plain), min_size=1, max_size=60).filter(str.strip)


@pytest.mark.parametrize("mail_type", TYPES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=LINES, firm=LINES, reader=LINES)
def test_no_value_whatever_becomes_html(mail_type: str, value: str, firm: str, reader: str) -> None:
    model = sample(mail_type)
    plain = Page(render(mail_type, hostile(model, "x"), look_of(mail_type, tenant_name="x", recipient_name="x")).html)
    mail = render(mail_type, hostile(model, value), look_of(mail_type, tenant_name=firm, recipient_name=reader))
    assert Page(mail.html).shape == plain.shape
    assert "\n" not in mail.subject
    assert len(mail.subject) <= 200


@pytest.mark.parametrize("mail_type", [name for name, model in CONTENTS.items() if model is not Items])
def test_a_missing_value_is_an_error(mail_type: str) -> None:
    empty = CONTENTS[mail_type].model_construct()
    with pytest.raises(UndefinedError):
        render(mail_type, empty, look_of(mail_type))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tenant_name", "Firm\r\nBcc: x@example.com", "one line"),
        ("tenant_name", " ", "empty"),
        ("recipient_name", "Ada\nX: y", "one line"),
        ("recipient_name", "Ada\u202e", "one line"),
        ("color", "red;background:url(x)", "no colour"),
        ("logo_url", "javascript:x", "absolute link|https"),
        ("unsubscribe_url", "http://example.com/u", "https"),
        ("locale", "xx", "no locale"),
        ("time_zone", "Mars/Olympus", "not known"),
        ("time_zone", "../../etc/passwd", "not known"),
    ],
)
def test_a_look_that_no_mail_can_have_is_refused(field: str, value: str, reason: str) -> None:
    with pytest.raises(UnfitForMail, match=reason):
        replace(LOOK, **{field: value})


@pytest.mark.parametrize("locale", ["es_MX", "zh_Hant_TW"])
def test_a_locale_without_texts_falls_back_as_a_whole(locale: str) -> None:
    mail = render("task_assignment", sample("task_assignment"), replace(LOOK, locale=locale))
    assert "Due: March 6, 2026" in mail.text
    mail = render("task_assignment", sample("task_assignment"), replace(LOOK, locale=locale, tenant_locale="de_AT"))
    assert "Fällig: 6. März 2026" in mail.text


def test_a_type_and_a_model_must_belong_together() -> None:
    with pytest.raises(UnfitForMail, match="unknown mail type 'nope'; there are: welcome"):
        render("nope", sample("welcome"), LOOK)
    with pytest.raises(UnfitForMail, match="digest is rendered from Items, not from Welcome"):
        render("digest", sample("welcome"), LOOK)


def items(*days: int) -> Items:
    return Items(
        items=tuple(
            Item(category="filing", title="VAT return", client_name="Acme", due_date=date(2026, 3, 2), days_left=left)
            for left in days
        )
    )


@pytest.mark.parametrize(
    ("mail_type", "days", "subject"),
    [
        ("digest", (5, -1, 0), "3 things need you: 1 overdue"),
        ("digest", (5, 0, 0), "3 things need you: 2 today"),
        ("digest", (5,), "1 thing needs you"),
        ("filing_reminder", (5, 6), "2 filings to submit"),
        ("filing_reminder", (5,), "VAT return, Acme: due March 2, 2026"),
        ("digest", tuple(range(1, 1_235)), "1,234 things need you"),
    ],
)
def test_the_subject_says_what_is_urgent(mail_type: str, days: tuple[int, ...], subject: str) -> None:
    assert render(mail_type, items(*days), replace(LOOK, locale="en")).subject == subject


def test_a_long_digest_counts_what_it_does_not_show() -> None:
    mail = render("digest", items(*range(1, 43)), LOOK)
    assert "and 12 more" in mail.text
    assert "and 12 more" in Page(mail.html).text
    assert mail.text.count("- VAT return") == 30


def test_what_is_left_out_leaves_no_trace() -> None:
    task = Task(title="Call", client_name="Acme", due_date=None)
    mail = render("task_assignment", task, LOOK)
    assert "Due: no date" in mail.text
    assert "Open the task" not in mail.text + mail.html
    invoice = InvoiceDue(number="1", amount=Decimal("0.10"), currency="JPY", due_date=date(2026, 3, 2))
    assert "Attached" not in render("invoice", invoice, LOOK).text
    nameless = render("task_assignment", task, replace(LOOK, recipient_name=" "))
    assert nameless.text.startswith("Hello,\n")


def test_critical_mail_has_no_unsubscribe_link_and_says_why() -> None:
    mail = preview("password_reset")
    assert "nsubscribe" not in mail.text + mail.html
    assert "cannot be switched off" in mail.text
    assert LOOK.unsubscribe_url is not None
    assert LOOK.unsubscribe_url in preview("invoice").text


def test_the_logo_takes_the_place_of_the_name() -> None:
    mail = preview("custom", logo_url="https://firm.example/logo.png")
    assert ("img", "https://firm.example/logo.png") in [
        (tag, attributes.get("src")) for tag, attributes in Page(mail.html).tags
    ]
    assert "<img" not in preview("custom").html


def test_a_text_keeps_its_paragraphs_and_lines() -> None:
    assert paragraphs("one\ntwo \n\n\nthree\n \nfour") == [["one", "two"], ["three"], ["four"]]


def test_a_reset_is_shown_on_the_readers_clock() -> None:
    model = sample("password_reset")
    assert isinstance(model, payloads.PasswordReset)
    look = look_of("password_reset", time_zone="Asia/Tokyo", locale="ja")
    assert "2026年3月3日 0:30 (GMT+9)" in render("password_reset", model, look).text
