"""`duecourse email`: look at the mails without sending one, and build their templates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from duecourse.console import FAILED, command, err

email = typer.Typer(
    help="""Look at the mails as their readers get them, with invented people; let paused or suppressed mail go on.

    Examples: `duecourse email preview invoice`, `duecourse email gallery --open`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Locale = Annotated[str | None, typer.Option(help="Language and territory, e.g. de, de_AT or pt-BR; else en_GB.")]
Color = Annotated[str | None, typer.Option(help="The firm's colour, e.g. #7a1f3d.")]
Open = Annotated[bool, typer.Option("--open", help="Show it in the browser.")]


@email.command()
@command
def preview(
    mail_type: Annotated[str, typer.Argument(metavar="TYPE", help="E.g. digest; an unknown one lists all.")],
    *,
    html: Annotated[bool, typer.Option("--html", help="Print the HTML.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Print the plain text: so also without any option.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Write TYPE.html and TYPE.txt into this folder.")] = None,
    show: Open = False,
    locale: Locale = None,
    color: Color = None,
) -> None:
    """Print, write or show one mail.

    Examples: `duecourse email preview digest --open`, `duecourse email preview invoice --text --locale de`
    """
    from duecourse import email_preview

    mail = email_preview.preview(mail_type, locale=locale, color=color)
    if html:
        print(mail.html, end="")
    if text or not (html or folder or show):
        print(f"Subject: {mail.subject}\n\n{mail.text}", end="")
    if folder or show:
        written, _ = email_preview.write(mail_type, mail, folder or _scratch())
        err().print(f"Written to {written} and, as text, beside it.", markup=False)
        if show:
            _show(written)


@email.command()
@command
def gallery(
    folder: Annotated[Path | None, typer.Option("--out", help="The folder to write into, or a temporary one.")] = None,
    *,
    show: Open = False,
    locale: Locale = None,
    color: Color = None,
) -> None:
    """Write every mail, and a page that shows all of them wide, narrow and as text.

    Examples: `duecourse email gallery --open`, `duecourse email gallery --out /tmp/mails --locale ar`
    """
    from duecourse import email_preview

    index = email_preview.write_gallery(folder or _scratch(), locale=locale, color=color)
    print(index)
    if show:
        _show(index)


@email.command()
@command
def build(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 when something would.")] = False,
) -> None:
    """Build functions/email/templates/*.html from functions/email/templates/src/. For developers.

    Example: `duecourse email build`, after a change to the layout
    """
    from duecourse import email_templates

    changed = email_templates.outdated() if check else email_templates.write()
    for path in changed:
        print(path)
    if check and changed:
        err().print("These are not what their sources say: run `duecourse email build`.", markup=False)
        raise typer.Exit(FAILED)


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="duecourse-mail-"))


def _show(page: Path) -> None:
    if typer.launch(page.resolve().as_uri()):
        err().print("No browser could be started here; open the file yourself.", markup=False)


@email.command()
@command
def resume(tenant: Annotated[UUID, typer.Argument(help="The tenant's id.")]) -> None:
    """Let a tenant's routine mail go on that the circuit breaker paused; its rates are counted anew from here.

    Example: `duecourse email resume 9b70d277-de20-41a1-b8c6-2930df0d3cad`
    """
    from duecourse.local import stack
    from functions.email.breaker import resume as let_go_on

    with stack.database_transaction() as tx:
        was_paused = let_go_on(tx, tenant)
    err().print("Its routine mail goes on." if was_paused else "Its mail was not paused: nothing changed.")


@email.command()
@command
def unsuppress(address: Annotated[str, typer.Argument(help="The e-mail address.")]) -> None:
    """Let mail go to an address again that bounced, complained or was suppressed by an operator.

    Example: `duecourse email unsuppress someone@example.com`
    """
    from duecourse.local import stack
    from functions.email.event_queries import clear_suppression

    with stack.database_transaction() as tx:
        was_listed = clear_suppression(tx, address)
    err().print("Mail goes there again." if was_listed else "It was not suppressed: nothing changed.")
