"""Secrets Manager: one secret, by ARN."""

from __future__ import annotations

from functions.aws.clients import client


def secret_value(arn: str) -> str:
    """The current value of a secret."""
    return str(client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
