"""Fixtures for the thin calls on AWS: moto in place of the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from functions.aws.clients import client


@pytest.fixture(autouse=True)
def aws() -> Iterator[None]:
    """An empty AWS account per test."""
    client.cache_clear()
    with mock_aws():
        yield
    client.cache_clear()
