"""What a cold start must not load: a list per handler, held after its first invocation in a new process."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions

import pytest
from sqlalchemy import Engine

from functions.core.catalog import CATALOG
from tests.contract.cold import NOBODY_DUE, SITUATIONS, Cold, enter
from tests.contract.test_package import locked, normalised
from tests.contract.test_template import HANDLERS
from tests.harness import Queues

pytestmark = pytest.mark.sql

BOTO3 = ("boto3", "botocore.session", "s3transfer", "urllib3")
"""150 ms with a client: only where SQS is called, or the database's secret is read."""
PYDANTIC = ("pydantic", "pydantic_core", "functions.pipeline.envelope")
ALEMBIC = ("alembic", "mako", "functions.db.migrate")
POWERTOOLS = ("aws_lambda_powertools", "botocore", "jmespath")

HTTP = ("aws_lambda_powertools.event_handler", "aws_lambda_powertools.utilities.data_classes")
"""100 ms, for the management API alone."""
EVERY_HANDLER = (
    # What libraries of ours offer and no handler uses.
    "aws_lambda_powertools.utilities.batch",
    "aws_lambda_powertools.utilities.parser",
    "aws_xray_sdk",
    "pydantic.v1",
    "requests",
    "sqlalchemy.orm",
    # What belongs on a laptop.
    "duecourse",
    "jinja2",
    "ministack",
    "moto",
    "psutil",
    "pytest",
    "rich",
    "tests",
    "typer",
    "unittest",
)
CRON = (
    *ALEMBIC,
    "functions.compliance",
    "functions.email",
    "functions.pipeline.perform",
    "functions.pipeline.sweep",
    "functions.pipeline.worker",
    "functions.upkeep",
)
WORKER = (
    *ALEMBIC,
    *BOTO3,
    "babel",
    "functions.compliance",
    "functions.pipeline.redrive",
    "functions.pipeline.relay",
    "functions.pipeline.schedule",
    "functions.upkeep",
    "tzdata",
)
MUST_NOT_LOAD = {
    **dict.fromkeys((name for name in HANDLERS if name in CATALOG.schedules), CRON),
    **dict.fromkeys((name for name in HANDLERS if name.endswith("-worker")), WORKER),
    "unsubscribe": (*ALEMBIC, *POWERTOOLS, "babel", "functions.compliance", "functions.pipeline.worker"),
    "api": (*ALEMBIC, *BOTO3, "babel", "tzdata", "functions.compliance", "functions.pipeline.worker"),
    "tokens": (*ALEMBIC, *BOTO3, "babel", "tzdata", "functions.compliance", "functions.pipeline.worker"),
    "daily-compliance-refresh": (
        *ALEMBIC,
        "functions.compliance.queries",
        "functions.pipeline.perform",
        "functions.pipeline.sweep",
        "functions.pipeline.worker",
        "functions.upkeep",
    ),
    "compliance-refresh-worker": (
        *ALEMBIC,
        *BOTO3,
        "functions.pipeline.redrive",
        "functions.pipeline.relay",
        "functions.pipeline.schedule",
        "functions.upkeep",
        "tzdata",
    ),
    "upkeep-worker": (
        *ALEMBIC,
        *BOTO3,
        "functions.compliance",
        "functions.pipeline.redrive",
        "functions.pipeline.relay",
        "functions.pipeline.schedule",
        "tzdata",
    ),
    "relay": (
        *ALEMBIC,
        *PYDANTIC,
        "functions.compliance",
        "functions.pipeline.schedule",
        "functions.pipeline.worker",
        "functions.upkeep",
        "tzdata",
    ),
    "sweep": (
        "alembic",
        "mako",
        *PYDANTIC,
        "functions.compliance",
        "functions.pipeline.schedule",
        "functions.pipeline.worker",
        "functions.upkeep",
        "tzdata",
    ),
    "migrate": (
        *BOTO3,
        *POWERTOOLS,
        *PYDANTIC,
        "functions.aws",
        "functions.compliance",
        "functions.pipeline",
        "functions.upkeep",
    ),
}
NOT_UNTIL_SENDING = {*NOBODY_DUE, "relay-nothing-due"}
"""Situations of handlers that may load boto3, in which they have nothing to send."""

IF_THERE = {"certifi", "pygments"}
"""Used by botocore and mako where they happen to be installed, which they are not in Lambda."""


def loaded(cold: Cold, names: tuple[str, ...]) -> set[str]:
    """Which of these modules, or anything below them, were loaded."""
    return {name for name in names if any(f"{module}.".startswith(f"{name}.") for module in cold.modules)}


@pytest.fixture(params=SITUATIONS)
def situation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_cold_start_loads_what_it_needs_and_nothing_else(situation: str, observer: Engine, queues: Queues) -> None:
    function = SITUATIONS[situation].function
    cold = enter(SITUATIONS[situation], observer)
    assert loaded(cold, (*EVERY_HANDLER, *MUST_NOT_LOAD[function])) == set()
    if function != "api":
        assert loaded(cold, HTTP) == set()
    if situation in NOT_UNTIL_SENDING:
        assert loaded(cold, BOTO3) == set()
    # Of a library that is loaded but not in the runtime's lock, Lambda would know nothing.
    distributions = packages_distributions()
    packages = {module.partition(".")[0] for module in cold.modules} - sys.stdlib_module_names - {"functions"}
    shipped = {name for name in packages & distributions.keys() if {*map(normalised, distributions[name])} & locked()}
    assert (packages & distributions.keys()) - shipped - IF_THERE == set()


def test_every_handler_has_its_list_and_a_situation() -> None:
    assert MUST_NOT_LOAD.keys() == HANDLERS.keys() == {row.function for row in SITUATIONS.values()}
