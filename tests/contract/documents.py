"""The Markdown documents as the tests read them: their links, their code, and the commands in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from duecourse.lint_template import REPOSITORY

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
COMMENT = re.compile(r"(?:^|\s)#.*$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPERATORS = frozenset({"|", "||", "&&", ";", "&", ")"})


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    found = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*.md"))
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))


def read(document: Path) -> str:
    return (REPOSITORY / document).read_text()


def links(document: Path) -> list[str]:
    """Link targets that are not on the web."""
    return [target for target in LINK.findall(read(document)) if not re.match(r"https?:|mailto:", target)]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", read(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [code for found, code in FENCED.findall(read(document)) if found == language]


def inline(document: Path) -> list[str]:
    return INLINE.findall(FENCED.sub("", read(document)))


def table(document: Path, heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a section's table, the first one or a later, without its head."""
    section = read(document).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def commands(document: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in the document's code, up to the next shell operator."""
    text = FENCED.sub("", read(document))
    fenced = [line for _, block in FENCED.findall(read(document)) for line in block.splitlines()]
    start = re.compile(rf"(?:^\s*|[|;&(]\s*|\buv run |^\s*\w+=\S+ )(?:\.venv/bin/)?{program}(?=\s|$)")
    for line in [*INDENTED.findall(text), *INLINE.findall(INDENTED.sub("", text)), *fenced]:
        for call in start.split(COMMENT.sub("", line))[1:]:
            yield _arguments(call)


def _arguments(call: str) -> list[str]:
    try:
        words = shlex.split(call)
    except ValueError:  # a quotation that was opened before the call, as in eval "$(duecourse …)"
        words = re.split(r"[\s)\"]+", call)
    end = next((index for index, word in enumerate(words) if word in OPERATORS), len(words))
    return [word.rstrip(");") for word in words[:end] if word]
