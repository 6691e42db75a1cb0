"""The pipeline's environment."""

from __future__ import annotations

import pytest

from functions.core.catalog import CATALOG
from functions.core.errors import ConfigurationError
from functions.pipeline.settings import load_settings

PREFIX = "https://sqs.eu-central-1.amazonaws.com/123456789012/duecourse-prod-"


@pytest.mark.parametrize("environ", [{}, {"QUEUE_URL_PREFIX": ""}])
def test_a_missing_variable_names_itself(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="QUEUE_URL_PREFIX is not set"):
        load_settings(environ)


@pytest.mark.parametrize(
    ("queue", "dead_letter", "name"),
    [
        ("upkeep", False, "upkeep"),
        ("upkeep", True, "upkeep-dlq"),
        ("email", False, "email.fifo"),
        ("email", True, "email-dlq.fifo"),
    ],
)
def test_a_queues_url_follows_from_its_name_and_kind(queue: str, dead_letter: bool, name: str) -> None:
    found = load_settings({"QUEUE_URL_PREFIX": PREFIX}).queue_url(queue, dead_letter=dead_letter)
    assert found == f"{PREFIX}{name}"


def test_no_two_queues_share_a_url() -> None:
    settings = load_settings({"QUEUE_URL_PREFIX": PREFIX})
    urls = {settings.queue_url(name, dead_letter=dead) for name in CATALOG.queues for dead in (False, True)}
    assert len(urls) == 2 * len(CATALOG.queues)
