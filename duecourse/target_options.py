"""Options that every command has which looks at a deployment or steers it."""

from __future__ import annotations

from typing import Annotated

import typer

LOCAL = "local"
"""The stack of `duecourse up`."""

Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        envvar="DUECOURSE_TARGET",
        metavar="local|STACK|URL",
        help="`local`, the name of a stack on AWS, or the API's address; the latter two with DUECOURSE_TOKEN.",
    ),
]
Profile = Annotated[str | None, typer.Option("--profile", help="AWS profile, for a stack on AWS; else AWS_PROFILE.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask first.")]
