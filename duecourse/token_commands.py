"""`duecourse token`: who may use the management API. It invokes the function `tokens`: IAM decides who may."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from duecourse.console import command, err, out, print_json
from duecourse.target_options import LOCAL, Json, Profile, Target
from functions.core.errors import DuecourseError

if TYPE_CHECKING:
    from duecourse.target import Deployment

token = typer.Typer(
    help="""Give out, list and revoke tokens of the management API.

    Examples: `duecourse token create ana --role operator --days 90`, `duecourse token revoke ana`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(help="Whose it is, e.g. ana or ci; the audit shows it.")]


class TokensRefused(DuecourseError):
    """The function `tokens` refused; the message is its own."""


@token.command()
@command
def create(
    name: Name,
    *,
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    tenant: Annotated[UUID | None, typer.Option(help="Only this tenant's jobs.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Until it expires; without it, until it is revoked.")] = None,
    target: Target = LOCAL,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Make a token and print it: it is kept as a hash, and cannot be shown again.

    Examples: `duecourse token create ana --role operator`, `duecourse token create ci --days 30`
    """
    event = {"action": "create", "name": name, "role": role, "tenant_id": tenant and str(tenant), "days": days}
    made = _invoke(target, profile, event | {"by": getpass.getuser()})
    if json:
        print_json(made)
        return
    err().print(f"{made['name']}, {made['role']}, until {made['expires_at'] or 'it is revoked'}:", markup=False)
    print(made["token"])


@token.command("list")
@command
def list_tokens(*, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """Show all tokens, ended ones included; never the tokens themselves.

    Examples: `duecourse token list`, `duecourse token list --target duecourse-prod --json`
    """
    from duecourse import views

    found = _invoke(target, profile, {"action": "list"})["items"]
    if json:
        print_json(found)
    else:
        out().print(views.tokens(found))


@token.command()
@command
def revoke(name: Name, *, target: Target = LOCAL, profile: Profile = None, json: Json = False) -> None:
    """End a token at once.

    Example: `duecourse token revoke ana`
    """
    ended = _invoke(target, profile, {"action": "revoke", "name": name, "by": getpass.getuser()})
    if json:
        print_json(ended)
    else:
        err().print(f"{ended['name']} is revoked; it was last used {ended['last_used_at'] or 'never'}.", markup=False)


def _invoke(target: str, profile: str | None, event: dict[str, Any]) -> Any:
    from duecourse import target as targets

    deployed: Deployment = targets.deployment(target, profile=profile)
    payload = json.dumps(event).encode()
    answer = deployed.client("lambda").invoke(FunctionName=f"{deployed.name}-tokens", Payload=payload)
    found = json.loads(answer["Payload"].read())
    if "FunctionError" in answer:
        raise TokensRefused(found.get("errorMessage", "the function `tokens` failed without a word"))
    return found
