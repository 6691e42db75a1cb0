"""Secrets Manager: one secret, by ARN."""

from __future__ import annotations

from functions.aws.clients import client
from functions.core.errors import ConfigurationError, SecretsAway

ATTEMPTS = 2
TIMEOUT_SECONDS = 2
"""Of each attempt, to connect and to read: a secret comes before the database, and neither may use an invocation up."""

# What no repetition cures. Everything else (throttling, errors of the store's own, an expired session) passes.
# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html
MISCONFIGURED = frozenset(
    {
        "AccessDeniedException",
        "DecryptionFailure",
        "InvalidParameterException",
        "InvalidRequestException",
        "InvalidSignatureException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)


def secret_value(arn: str) -> str:
    """The current value of a secret.

    Raises `SecretsAway` when the store is throttled or does not answer, and `ConfigurationError` when it refuses:
    there is no such secret, or this function may not read it.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, ParamValidationError

    try:
        store = client("secretsmanager", attempts=ATTEMPTS, timeout_seconds=TIMEOUT_SECONDS)
        found = store.get_secret_value(SecretId=arn)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in MISCONFIGURED:
            raise ConfigurationError(f"the secret {arn} cannot be read ({code}): check the ARN and the role") from error
        raise SecretsAway(f"the secret {arn} cannot be read at present ({code})") from error
    except (NoCredentialsError, NoRegionError, ParamValidationError) as error:
        raise ConfigurationError(f"the secret {arn} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise SecretsAway(f"the secret store does not answer ({error})") from error
    if "SecretString" not in found:
        raise ConfigurationError(f"the secret {arn} is binary: it has to be text")
    return str(found["SecretString"])
