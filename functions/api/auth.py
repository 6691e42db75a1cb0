"""Who calls: bearer tokens, kept as hashes, with a role and maybe a tenant's scope.

A route begins with `require("operator")`; `caller()` says who it is. What is not authenticated meets no route at all.
"""

from __future__ import annotations

import hmac
import ipaddress
from contextvars import ContextVar
from http import HTTPStatus
from uuid import UUID

from sqlalchemy import Connection, text

from functions.api import problems
from functions.api.identity import Caller, Role, token_hash
from functions.api.problems import Problem

FAILURES_PER_MINUTE = 30
"""Wrong tokens from one source in a calendar minute; then that source is refused until the next one."""
IPV6_NETWORK_BITS = 64
"""What one customer gets: its addresses are one source."""

CHALLENGE = {"WWW-Authenticate": "Bearer"}

# One statement for the token, its last use (at most once a minute, or every request would write), and the failures.
LOOK_UP = text("""
    WITH used AS (
        UPDATE api_tokens SET last_used_at = clock_timestamp()
        WHERE token_hash = :hash AND revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), true)
          AND coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)
          AND NOT EXISTS (SELECT FROM auth_failures WHERE source = :source AND failures >= :most
                          AND minute = date_trunc('minute', clock_timestamp()))
    )
    SELECT t.id, t.name, t.role, t.tenant_id, t.token_hash,
        t.revoked_at IS NOT NULL OR coalesce(t.expires_at <= clock_timestamp(), false) AS ended,
        coalesce((SELECT failures FROM auth_failures
                  WHERE source = :source AND minute = date_trunc('minute', clock_timestamp())), 0) AS failures,
        ceil(60 - extract(second FROM clock_timestamp()))::int AS seconds_left
    FROM (SELECT) AS always LEFT JOIN api_tokens t ON t.token_hash = :hash
""")

COUNT_FAILURE = text("""
    INSERT INTO auth_failures (source, minute, failures)
    VALUES (:source, date_trunc('minute', clock_timestamp()), 1)
    ON CONFLICT (source, minute) DO UPDATE SET failures = auth_failures.failures + 1
""")


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller() -> Caller:
    """Who is calling. Raises `Problem` 401 outside an authenticated request."""
    found = _caller.get()
    if found is None:
        raise _unauthenticated()
    return found


def current() -> Caller | None:
    """Who is calling, or None before that is known."""
    return _caller.get()


def set_caller(found: Caller | None) -> None:
    """Set whose request this process is serving."""
    _caller.set(found)


def require(role: Role | str, *, everywhere: bool = False) -> Caller:
    """The caller, if it has at least this role. Raises `Problem` 403.

    `everywhere`: what is asked for touches every tenant, so that a token with a tenant's scope does not suffice.
    """
    found = caller()
    if not found.may(role):
        raise problems.forbidden(f"this needs the role {Role(role)}; the token is of a {found.role}")
    if everywhere and found.tenant_id is not None:
        raise problems.forbidden("this concerns every tenant; the token is of one")
    return found


def scope(tenant_id: UUID | None) -> UUID | None:
    """The tenant that a list is limited to: the token's, else the one asked for.

    Raises `Problem` 403 when a token of one tenant asks for another.
    """
    own = caller().tenant_id
    if own is None or tenant_id is None or own == tenant_id:
        return own or tenant_id
    raise problems.forbidden("the token is of another tenant")


def bearer(authorization: str | None) -> str:
    """The token in an Authorization header. Raises `Problem` 401 when there is none."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthenticated()
    return token.strip()


def authenticate(tx: Connection, token: str, source: str) -> Caller | None:
    """Whose token this is, or None, the failure counted: commit, then refuse.

    Raises `Problem` 429 when this source has failed too often.
    """
    hashed = token_hash(token)
    origin = network(source)
    row = tx.execute(LOOK_UP, {"hash": hashed, "source": origin, "most": FAILURES_PER_MINUTE}).one()
    if row.failures >= FAILURES_PER_MINUTE:
        raise Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "too many wrong tokens from this address: wait for a minute",
            headers={"Retry-After": str(row.seconds_left)},
        )
    known = bytes(row.token_hash) if row.token_hash is not None else bytes(len(hashed))
    if not hmac.compare_digest(known, hashed) or row.ended:
        tx.execute(COUNT_FAILURE, {"source": origin})
        return None
    return Caller(row.id, row.name, Role(row.role), row.tenant_id)


def refused() -> Problem:
    """What a wrong, expired or revoked token gets: the same for each."""
    return _unauthenticated("the token is not valid: ask an administrator for another")


def network(source: str) -> str:
    """The address, or its network where one customer has many."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), IPV6_NETWORK_BITS), strict=False))


def _unauthenticated(detail: str = "a bearer token is needed: Authorization: Bearer dc_…") -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers=CHALLENGE)
