"""The local stack's own token of the management API: an administrator's, kept in the home for its owner's eyes only."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duecourse.local.state import Home

NAME = "local"
MAKER = "duecourse up"

IS_GOOD = text("""
    SELECT 1 FROM api_tokens WHERE token_hash = :hash AND revoked_at IS NULL
       AND coalesce(expires_at > clock_timestamp(), true)
""")


def read(home: Home) -> str | None:
    """The token that `duecourse up` made, or None."""
    try:
        return home.api_token.read_text().strip() or None
    except OSError:
        return None


def ensure(home: Home, tx: Connection) -> bool:
    """Have a token in the home that this database knows. Returns whether a new one was made."""
    from functions.api.identity import Role, token_hash

    known = read(home)
    if known and tx.execute(IS_GOOD, {"hash": token_hash(known)}).first() is not None:
        return False
    from functions.api.tokens import Create, Revoke, TokenError, create, revoke

    with suppress(TokenError):  # there is one where the database outlived the home's file
        revoke(tx, Revoke(action="revoke", name=NAME, by=MAKER))
    made, _ = create(tx, Create(action="create", name=NAME, role=Role.ADMIN, by=MAKER))
    _write(home, made)
    return True


def _write(home: Home, token: str) -> None:
    """Written anew, so that its mode is ours from the first byte on."""
    home.api_token.unlink(missing_ok=True)
    with os.fdopen(os.open(home.api_token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{token}\n")
