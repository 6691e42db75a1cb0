"""Make the HTML templates of the mails: functions/email/templates/src/ → functions/email/templates/*.html.

Mail programs read styles from each element, so the style sheet is inlined here, once, and not when a mail is sent.
Sources have two kinds of jinja: [% … %] and [[ … ]] put a file together and run here; {% … %} and {{ … }} run when a
mail is rendered, and pass through.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from functions.email.contents import CONTENTS
from functions.email.render import TEMPLATES

SOURCES: Final = TEMPLATES / "src"

_LATER: Final = re.compile(r"<style media=.*?</style>|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
"""What the inliner must not see: styles that depend on the screen, and what runs when a mail is rendered."""
_KEPT: Final = re.compile(r"<!--kept(\d+)kept-->|kept(\d+)kept")


def build() -> dict[str, str]:
    """Every HTML template by its file name, as it must stand in functions/email/templates/."""
    return {f"{name}.html": _inlined(_assembled(f"{name}.html")) for name in CONTENTS}


def outdated() -> list[Path]:
    """The committed templates that are not what their sources say."""
    return [
        TEMPLATES / name
        for name, html in build().items()
        if not (TEMPLATES / name).exists() or (TEMPLATES / name).read_text(encoding="utf-8") != html
    ]


def write() -> list[Path]:
    """Write the templates that are not what their sources say; returns them."""
    built, changed = build(), outdated()
    for path in changed:
        path.write_text(built[path.name], encoding="utf-8")
    return changed


def _assembled(name: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(SOURCES),
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - what is put together here are templates; they escape when they run
    )
    return environment.get_template(name).render()


def _inlined(template: str) -> str:
    """The style sheet moved into the elements. What runs later is put aside, so that the parser cannot mistake it.

    A statement may stand between the rows of a table, where only a comment survives parsing.
    """
    from css_inline import CSSInliner

    kept: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        kept.append(match[0])
        mark = f"kept{len(kept) - 1}kept"
        return mark if match[0].startswith("{{") else f"<!--{mark}-->"

    inliner = CSSInliner(load_remote_stylesheets=False)
    html = inliner.inline(_LATER.sub(put_aside, template))
    html = _KEPT.sub(lambda match: kept[int(match[1] or match[2])], html)
    return re.sub(r"\n\s*\n+", "\n", html).strip() + "\n"
