"""Where the database is, read from the environment once, at the edge."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

from functions.core.errors import ConfigurationError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How to reach PostgreSQL. A `host` that starts with `/` is the directory of a unix socket (no TLS there)."""

    host: str
    port: int
    database: str
    user: str
    password: str | None = field(repr=False)
    tls: bool = True
    """Off only by `sslmode=disable`, for a container network; never needed on this machine's own addresses."""
    through_proxy: bool = False
    """Whether an RDS Proxy stands between, which refuses most parameters of a connection's start."""

    @property
    def is_local_socket(self) -> bool:
        return self.host.startswith("/")

    @property
    def wants_tls(self) -> bool:
        return self.tls and self.host not in LOOPBACK and not self.is_local_socket


def load_settings(environ: Mapping[str, str] = os.environ) -> DatabaseSettings:
    """Read `DATABASE_URL`, or the secret that `DATABASE_SECRET_ARN` names (`DATABASE_HOST` then overrides its host,
    for an RDS Proxy). Raises `ConfigurationError` naming what is missing.
    """
    if url := environ.get("DATABASE_URL"):
        return from_url(url)
    if arn := environ.get("DATABASE_SECRET_ARN"):
        from functions.aws.secrets import secret_value  # boto3 only where a secret is really used

        return from_secret(secret_value(arn), host=environ.get("DATABASE_HOST"))
    raise ConfigurationError(
        "neither DATABASE_URL nor DATABASE_SECRET_ARN is set: name the database, e.g."
        " DATABASE_URL=postgresql://user:password@host:5432/duecourse"
    )


def from_url(url: str) -> DatabaseSettings:
    """Parse `postgresql://user:password@host:port/database`, or with `?host=/socket/directory`."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:  # its text may hold a part of the password
        raise ConfigurationError(
            "DATABASE_URL is no URL with a usable port: percent-encode the special characters of user and password"
        ) from None
    if not parts.scheme.startswith("postgres"):
        raise ConfigurationError(f"DATABASE_URL must start with postgresql://, not {parts.scheme}://")
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "localhost"])[0]
    return DatabaseSettings(
        host=host,
        port=port,
        database=unquote(parts.path.lstrip("/")) or "postgres",
        user=unquote(parts.username or "postgres"),
        password=unquote(parts.password) if parts.password else None,
        tls=query.get("sslmode") != ["disable"],
    )


def connection_url(settings: DatabaseSettings) -> str:
    """The URL that `from_url` reads these settings from."""
    user = quote(settings.user, safe="")
    password = f":{quote(settings.password, safe='')}" if settings.password else ""
    database = quote(settings.database, safe="")
    if settings.is_local_socket:
        return f"postgresql://{user}{password}@:{settings.port}/{database}?host={quote(settings.host)}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    mode = "" if settings.tls else "?sslmode=disable"
    return f"postgresql://{user}{password}@{host}:{settings.port}/{database}{mode}"


def from_secret(text: str, *, host: str | None) -> DatabaseSettings:
    """Parse the JSON that RDS keeps in Secrets Manager: username, password, host, port, dbname. A `host` is a proxy's.

    https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html
    """
    try:
        secret = json.loads(text)
        return DatabaseSettings(
            host=host or secret["host"],
            port=int(secret.get("port", 5432)),
            database=secret.get("dbname", "duecourse"),
            user=secret["username"],
            password=secret.get("password"),
            tls=secret.get("sslmode") != "disable",
            through_proxy=host is not None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            "the database secret is not RDS's JSON (username, password, host, port, dbname):"
            f" {type(error).__name__} {error}"
        ) from None
