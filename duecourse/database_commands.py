"""`duecourse db`: the schema and the data of the local stack's database, or of DATABASE_URL."""

from __future__ import annotations

import shutil
import signal
import subprocess
from datetime import UTC, datetime
from typing import Annotated

import typer

from duecourse.console import command, step

database = typer.Typer(
    help="""Migrate, fill or look into the database of `duecourse up`, or of DATABASE_URL.

    Examples: `duecourse db migrate`, `duecourse db shell`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@database.command()
@command
def migrate() -> None:
    """Bring the schema up to date. Running it again changes nothing.

    Examples: `duecourse db migrate`, `DATABASE_URL=postgresql://me@db.example/duecourse duecourse db migrate`
    """
    from duecourse.local import stack
    from functions.db import migrate as migration
    from functions.db.reshape import reshape

    with step("Migrating") as note:
        revision = reshape(migration.migrate, migration.PATIENCE, begin=stack.database_transaction)
        note(f"the schema is at revision {revision}")


@database.command()
@command
def seed(
    *,
    day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day that expiry and due dates lie around; today if left out."),
    ] = None,
    tenants: Annotated[int, typer.Option(min=1)] = 24,
    clients: Annotated[int, typer.Option(min=1)] = 5_000,
    documents: Annotated[int, typer.Option(min=0)] = 40_000,
    filings: Annotated[int, typer.Option(min=0)] = 30_000,
    reset: Annotated[bool, typer.Option("--reset", help="Remove all tenants and jobs first.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before --reset on the database of DATABASE_URL.")
    ] = False,
) -> None:
    """Fill the database with invented firms, their clients, documents and filings; the same ones every time.

    Examples: `duecourse db seed`, `duecourse db seed --reset --day 2026-03-31`
    """
    from duecourse.local import seed as seeding
    from duecourse.local import stack

    if reset and not yes and stack.is_own_database():
        typer.confirm("Remove every tenant, user and job from the database of DATABASE_URL?", abort=True)
    now = datetime.now(UTC)
    with step("Seeding") as note, stack.database_transaction() as connection:
        if reset:
            seeding.reset(connection)
        counts = seeding.seed(
            connection,
            day=(day or now).date(),
            created_at=now,
            tenants=tenants,
            clients=clients,
            documents=documents,
            filings=filings,
        )
        note(str(counts))


@database.command(context_settings={"ignore_unknown_options": True})
@command
def shell(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to psql.")] = None,
) -> None:
    """Open psql on the database.

    Examples: `duecourse db shell`, `duecourse db shell -c 'SELECT state, count(*) FROM jobs GROUP BY state'`
    """
    from duecourse.local import postgres, stack
    from duecourse.local.state import default_home

    program = shutil.which("psql") or str(postgres.binary("psql"))
    url = stack.current_database_url(default_home())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is psql's: it cancels a query there
    raise typer.Exit(subprocess.run([program, url, *(arguments or [])], check=False).returncode)
