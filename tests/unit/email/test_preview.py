"""`duecourse email`: every mail can be looked at without sending one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from duecourse.email_commands import email
from functions.email.contents import CONTENTS


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(email, list(arguments))
    return result.exit_code, result.stdout


@pytest.mark.parametrize("mail_type", CONTENTS)
def test_a_preview_is_the_plain_text_unless_html_is_asked_for(mail_type: str) -> None:
    code, text = run("preview", mail_type)
    assert code == 0
    assert text.startswith("Subject: ")
    assert "Hartwell & Moss" in text
    code, html = run("preview", mail_type, "--html", "--locale", "ar", "--color", "#ffd400")
    assert code == 0
    assert html.startswith("<!DOCTYPE html>")
    assert 'dir="rtl"' in html
    assert "#ffd400" in html


@pytest.mark.parametrize("arguments", [("nope",), ("digest", "--locale", "xx"), ("digest", "--color", "red")])
def test_what_cannot_be_shown_is_an_error(arguments: tuple[str, ...]) -> None:
    assert run("preview", *arguments) == (1, "")


def test_a_preview_is_written_as_html_and_text(tmp_path: Path) -> None:
    assert run("preview", "invoice", "--out", str(tmp_path)) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"invoice.html", "invoice.txt"}


def test_the_gallery_shows_every_type(tmp_path: Path) -> None:
    assert run("gallery", "--out", str(tmp_path)) == (0, f"{tmp_path / 'index.html'}\n")
    index = (tmp_path / "index.html").read_text()
    for mail_type in CONTENTS:
        assert index.count(f'src="{mail_type}.html"') == 2
        assert (tmp_path / f"{mail_type}.html").exists()


def test_the_build_command_finds_nothing_to_build() -> None:
    assert run("build", "--check") == (0, "")
