"""The database secret, from Secrets Manager."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from functions.aws.clients import client
from functions.aws.secrets import secret_value
from functions.db.settings import load_settings

SECRET = {"username": "app", "password": "hunter2", "host": "writer.example", "port": 5432, "dbname": "due"}


def _secret(text: str) -> str:
    return str(client("secretsmanager").create_secret(Name="database", SecretString=text)["ARN"])


def test_a_secret_is_read_by_its_arn() -> None:
    assert secret_value(_secret("hello")) == "hello"


def test_a_rotated_secret_is_read_anew() -> None:
    arn = _secret("old")
    client("secretsmanager").put_secret_value(SecretId=arn, SecretString="new")
    assert secret_value(arn) == "new"


def test_a_secret_that_does_not_exist_is_named() -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        secret_value("arn:aws:secretsmanager:us-east-1:000000000000:secret:none-abcdef")


def test_the_database_is_found_by_its_secret_and_reached_through_the_proxy() -> None:
    arn = _secret(json.dumps(SECRET))
    direct = load_settings({"DATABASE_SECRET_ARN": arn})
    proxied = load_settings({"DATABASE_SECRET_ARN": arn, "DATABASE_HOST": "proxy.example"})
    assert (direct.host, proxied.host) == ("writer.example", "proxy.example")
    assert (proxied.user, proxied.password, proxied.database) == ("app", "hunter2", "due")


def test_one_client_serves_a_process() -> None:
    assert client("sqs") is client("sqs")
    assert client("sqs") is not client("secretsmanager")
