"""Roles, callers and their tokens, without HTTP."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

TOKEN_BYTES = 32


class Role(StrEnum):
    """What a token may do; each includes the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return list(Role).index(self)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it is. With a `tenant_id` it sees and steers that tenant's jobs alone."""

    token_id: UUID | None
    name: str
    role: Role
    tenant_id: UUID | None = None

    def may(self, role: Role | str) -> bool:
        return self.role.rank >= Role(role).rank


def new_token() -> str:
    """A token, to be shown once."""
    return f"dc_{secrets.token_urlsafe(TOKEN_BYTES)}"


def token_hash(token: str) -> bytes:
    """What is stored of a token. It has 256 random bits: a slow hash would add nothing."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
