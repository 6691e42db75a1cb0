"""boto3 clients for a LocalStack-compatible endpoint, with the dummy credentials that such endpoints take."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlsplit

from duecourse.local.errors import LocalError

REGION = "us-east-1"
ACCESS_KEY = "test"
LONGEST_INVOCATION_SECONDS = 310
"""The migrate function may take 300 seconds."""


def client(endpoint: str, service: str) -> Any:
    """A client of a service at this endpoint, whatever profile or region the caller's environment names."""
    from botocore.config import Config
    from localstack_client.session import Session

    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise LocalError(f"AWS_ENDPOINT_URL must be a URL such as http://127.0.0.1:4566, not {endpoint!r}")
    session = Session(
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=ACCESS_KEY,
        region_name=REGION,
        localstack_host=f"{parts.hostname}:{parts.port or 4566}",
    )
    return session.client(
        service,
        config=Config(
            connect_timeout=3,
            read_timeout=LONGEST_INVOCATION_SECONDS,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        ),
    )


def shell_exports(endpoint: str, database_url: str, api_url: str | None = None, api_token: str | None = None) -> str:
    """The lines that point the AWS CLI, SAM, boto3 and curl in the caller's shell at the stack."""
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "DATABASE_URL": database_url,
        "DUECOURSE_API": api_url,
        "DUECOURSE_TOKEN": api_token,
    }
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items() if value)
