"""S3: one object, whole."""

from __future__ import annotations

from functions.aws.clients import client


def read(bucket: str, key: str, *, most: int) -> bytes:
    """An object's bytes, at most `most` and one: a longer object shows by its length. Raises botocore's errors."""
    body = client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    return bytes(body.read(most + 1))
