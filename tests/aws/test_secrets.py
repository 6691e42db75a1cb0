"""The database secret, from Secrets Manager."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from botocore.exceptions import ConnectTimeoutError, HTTPClientError, ReadTimeoutError
from botocore.stub import Stubber

from functions.aws.clients import client
from functions.aws.secrets import ATTEMPTS, TIMEOUT_SECONDS, secret_value
from functions.core.errors import ConfigurationError, SecretsAway
from functions.db.engine import is_outage
from functions.db.settings import load_settings

SECRET = {"username": "app", "password": "hunter2", "host": "writer.example", "port": 5432, "dbname": "due"}


def _secret(text: str) -> str:
    return str(client("secretsmanager").create_secret(Name=uuid4().hex, SecretString=text)["ARN"])


def test_a_secret_is_read_by_its_arn() -> None:
    assert secret_value(_secret("hello")) == "hello"


def test_a_rotated_secret_is_read_anew() -> None:
    arn = _secret("old")
    client("secretsmanager").put_secret_value(SecretId=arn, SecretString="new")
    assert secret_value(arn) == "new"


def test_a_secret_that_does_not_exist_is_named() -> None:
    arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:none-abcdef"
    with pytest.raises(ConfigurationError, match=f"{arn} .*ResourceNotFoundException"):
        secret_value(arn)


REPLIES = [
    ("ThrottlingException", 400, SecretsAway),
    ("InternalServiceError", 500, SecretsAway),
    ("ServiceUnavailable", 503, SecretsAway),
    ("ExpiredTokenException", 400, SecretsAway),
    ("AccessDeniedException", 400, ConfigurationError),
    ("ResourceNotFoundException", 400, ConfigurationError),
    ("DecryptionFailure", 400, ConfigurationError),
]


@pytest.mark.parametrize(("code", "status", "expected"), REPLIES, ids=[code for code, _, _ in REPLIES])
def test_a_store_that_is_away_is_told_from_one_that_refuses(code: str, status: int, expected: type[Exception]) -> None:
    store = client("secretsmanager", attempts=ATTEMPTS, timeout_seconds=TIMEOUT_SECONDS)
    arn = _secret("hello")
    with Stubber(store) as stubber:
        stubber.add_client_error("get_secret_value", service_error_code=code, http_status_code=status)
        with pytest.raises(expected, match=code) as raised:
            secret_value(arn)
    assert is_outage(raised.value) is (expected is SecretsAway)
    assert secret_value(arn) == "hello"


@pytest.mark.parametrize("error", [ReadTimeoutError, ConnectTimeoutError])
def test_a_store_that_does_not_answer_is_away(error: type[HTTPClientError], monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise error(endpoint_url="https://store.example", error="timed out")

    store = client("secretsmanager", attempts=ATTEMPTS, timeout_seconds=TIMEOUT_SECONDS)
    monkeypatch.setattr(store, "get_secret_value", silent)
    with pytest.raises(SecretsAway, match=r"store\.example"):
        secret_value("arn")


def test_a_secret_that_is_no_text_is_named() -> None:
    arn = client("secretsmanager").create_secret(Name=uuid4().hex, SecretBinary=b"x")["ARN"]
    with pytest.raises(ConfigurationError, match="binary"):
        secret_value(arn)


def test_the_database_is_found_by_its_secret_and_reached_through_the_proxy() -> None:
    arn = _secret(json.dumps(SECRET))
    direct = load_settings({"DATABASE_SECRET_ARN": arn})
    proxied = load_settings({"DATABASE_SECRET_ARN": arn, "DATABASE_HOST": "proxy.example"})
    assert (direct.host, proxied.host) == ("writer.example", "proxy.example")
    assert (proxied.user, proxied.password, proxied.database) == ("app", "hunter2", "due")


def test_one_client_serves_a_process() -> None:
    assert client("sqs") is client("sqs")
    assert client("sqs") is not client("secretsmanager")
