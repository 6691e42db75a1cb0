"""The mails' templates: built ones are what their sources say, and carry their styles in their elements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duecourse.email_templates import SOURCES, build, outdated
from functions.email.colors import PAPER, PAPER_DARK
from functions.email.contents import CONTENTS
from functions.email.render import TEMPLATES


def test_the_built_templates_are_what_their_sources_say() -> None:
    assert [path.name for path in outdated()] == [], "run `duecourse email build`"
    assert {path.name for path in TEMPLATES.glob("*.html")} == build().keys()


@pytest.mark.parametrize("mail_type", CONTENTS)
def test_every_type_has_a_text_and_an_html_template(mail_type: str) -> None:
    assert (TEMPLATES / f"{mail_type}.txt").exists()
    html = (TEMPLATES / f"{mail_type}.html").read_text()
    assert "kept" not in html
    assert not re.search(r"\[\[|\[%", html)
    assert html.count("<style") == 1, "what stays in a style element is for dark and narrow screens only"
    assert re.search(r'<h1[^>]* style="', html)


def test_every_statement_of_a_source_survives_the_inliner() -> None:
    """A parser that moved a statement out of a table would pair it wrongly: each opened one is closed, in order."""
    for path in map(Path, TEMPLATES.glob("*.html")):
        open_blocks: list[str] = []
        for word in re.findall(r"\{%\s*(\w+)", path.read_text()):
            if word in {"if", "for"}:
                open_blocks.append(word)
            elif word.startswith("end"):
                assert open_blocks.pop() == word.removeprefix("end"), path.name
        assert open_blocks == []


def test_the_papers_are_those_whose_contrast_is_computed() -> None:
    assert f".card {{ max-width: 600px; background-color: {PAPER};" in (SOURCES / "mail.css").read_text()
    assert f".card {{ background-color: {PAPER_DARK} !important;" in (SOURCES / "screen.css").read_text()
