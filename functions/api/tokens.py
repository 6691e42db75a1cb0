"""Lambda `tokens`: makes, lists and revokes the API's tokens. Who may invoke it is IAM's to say; no HTTP leads here.

Events: `{"action": "create", "name": "ana", "role": "operator", "by": "me"}`, optionally with `tenant_id` and `days`;
`{"action": "list"}`; `{"action": "revoke", "name": "ana", "by": "me"}`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import text

from functions.api.actions import record
from functions.api.identity import Caller, Role, new_token, token_hash
from functions.core.errors import BadEvent, DuecourseError
from functions.db.deadline import deadline
from functions.db.engine import transaction
from functions.pipeline import observe

if TYPE_CHECKING:
    from sqlalchemy import Connection

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
"""Whose it is; the record of actions shows it."""
By = Annotated[str, Field(min_length=1, max_length=200)]
LONGEST_DAYS = 3650

# A name may return once its token has ended.
CREATE = text("""
    INSERT INTO api_tokens (name, token_hash, role, tenant_id, created_by, expires_at)
    SELECT :name, :hash, :role, :tenant_id, :by, clock_timestamp() + :days * interval '1 day'
    WHERE NOT EXISTS (SELECT FROM api_tokens WHERE name = :name AND revoked_at IS NULL
                      AND coalesce(expires_at > clock_timestamp(), true))
    RETURNING id, name, role, tenant_id, created_at, created_by, expires_at, revoked_at, last_used_at
""")

LIST = text("""
    SELECT id, name, role, tenant_id, created_at, created_by, expires_at, revoked_at, last_used_at
    FROM api_tokens ORDER BY created_at, id
""")

REVOKE = text("""
    UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE name = :name AND revoked_at IS NULL
    RETURNING id, name, role, tenant_id, created_at, created_by, expires_at, revoked_at, last_used_at
""")

IS_TENANT = text("SELECT 1 FROM tenants WHERE id = :id")

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('api_tokens/' || :name, 0))")


class TokenError(DuecourseError):
    """The tokens are not as the order needs them."""


class Create(BaseModel):
    """Order for a token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["create"]
    name: Name
    role: Role
    by: By
    tenant_id: UUID | None = None
    days: Annotated[int, Field(ge=1, le=LONGEST_DAYS)] | None = None
    """None: until it is revoked."""


class List(BaseModel):
    """Order for the list of all tokens, ended ones included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["list"]


class Revoke(BaseModel):
    """Order to end a token at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["revoke"]
    name: Name
    by: By


class Token(BaseModel):
    """A token as it may be shown: not the token itself."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: UUID
    name: str
    role: Role
    tenant_id: UUID | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


ORDER: TypeAdapter[Create | List | Revoke] = TypeAdapter(
    Annotated[Create | List | Revoke, Field(discriminator="action")]
)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Carry out one order; a new token is in the answer, and nowhere else."""
    try:
        order = ORDER.validate_python(event)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise BadEvent(f"the event is no order for tokens: {reasons}") from None
    observe.logger().info("tokens", action=order.action)
    with deadline(context), transaction() as tx:
        match order:
            case Create():
                secret, made = create(tx, order)
                return {"token": secret, **made.model_dump(mode="json")}
            case Revoke():
                return revoke(tx, order).model_dump(mode="json")
            case List():
                return {"items": [Token.model_validate(row).model_dump(mode="json") for row in tx.execute(LIST)]}


def create(tx: Connection, order: Create) -> tuple[str, Token]:
    """A new token, and what is kept of it. Raises `TokenError` while another of this name is good."""
    secret = new_token()
    tx.execute(LOCK, {"name": order.name})
    values = order.model_dump(include={"name", "tenant_id", "by", "days"})
    if order.tenant_id is not None and tx.scalar(IS_TENANT, {"id": order.tenant_id}) is None:
        raise TokenError(f"there is no tenant {order.tenant_id}: correct its id")
    row = tx.execute(CREATE, values | {"role": order.role.value, "hash": token_hash(secret)}).one_or_none()
    if row is None:
        raise TokenError(f"there is a token named {order.name} already: revoke it first, or choose another name")
    made = Token.model_validate(row)
    _record(tx, "token.create", made, by=order.by, before=None, after=made)
    return secret, made


def revoke(tx: Connection, order: Revoke) -> Token:
    """End the token of this name. Raises `TokenError` when there is none that is not revoked."""
    row = tx.execute(REVOKE, {"name": order.name}).one_or_none()
    if row is None:
        raise TokenError(f"there is no token named {order.name} to revoke: `duecourse token list` shows all")
    ended = Token.model_validate(row)
    before = ended.model_copy(update={"revoked_at": None})
    _record(tx, "token.revoke", ended, by=order.by, before=before, after=ended)
    return ended


def _record(tx: Connection, action: str, token: Token, *, by: str, before: Token | None, after: Token) -> None:
    record(
        tx,
        Caller(None, by, Role.ADMIN),
        action=action,
        target=f"tokens/{token.name}",
        tenant_id=token.tenant_id,
        before=before and before.model_dump(mode="json"),
        after=after.model_dump(mode="json"),
        result="done",
    )
