"""`duecourse mailbox`: what the local stack has sent, in the terminal or in a browser."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from duecourse.console import command, out, print_json


@command
def mailbox(
    number: Annotated[int | None, typer.Argument(min=1, help="Print this mail's text.")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open all mails as pages in a browser.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List the mails that the local stack has sent; print one, or open them in a browser.

    Examples: `duecourse mailbox`, `duecourse mailbox 3`, `duecourse mailbox --open`
    """
    from duecourse import views
    from duecourse.local import stack
    from duecourse.local.errors import LocalError
    from duecourse.local.mailbox import mails, write_pages
    from duecourse.local.state import default_home

    home = default_home()
    found = mails(stack.current_endpoint(home))
    if json:
        print_json([asdict(mail) for mail in found])
        return
    if number is not None:
        if number > len(found):
            raise LocalError(f"there is no mail {number}: `duecourse mailbox` lists {len(found)}")
        mail = found[number - 1]
        out().print(f"To: {', '.join(mail.to)}\nSubject: {mail.subject}\n\n{mail.text}", markup=False)
        return
    index = write_pages(found, home.directory / "mailbox")
    if browser:
        typer.launch(index.as_uri())
    out().print(views.mailbox(found))
    out().print(f"All of them as pages: {index}", markup=False)
