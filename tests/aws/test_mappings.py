"""Event source mappings: found by their function, switched off and on."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from functions.aws import mappings
from functions.aws.clients import client
from functions.aws.mappings import Mapping

FUNCTION = "duecourse-dev-upkeep-worker"
TRUST = {"Version": "2012-10-17", "Statement": []}


@pytest.fixture
def mapping() -> str:
    """A queue's mapping to its worker; returns its uuid."""
    role = client("iam").create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("worker.py", "")
    client("lambda").create_function(
        FunctionName=FUNCTION,
        Runtime="python3.13",
        Role=role,
        Handler="worker.handler",
        Code={"ZipFile": code.getvalue()},
    )
    url = client("sqs").create_queue(QueueName="upkeep")["QueueUrl"]
    found = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    made = client("lambda").create_event_source_mapping(FunctionName=FUNCTION, EventSourceArn=found["QueueArn"])
    return str(made["UUID"])


def test_a_mapping_is_found_and_switched(mapping: str) -> None:
    found = mappings.mapping_of(FUNCTION)
    assert found == Mapping(mapping, "Enabled")
    off = mappings.switch(found, on=False)
    assert off.state in mappings.DISABLED
    assert mappings.mapping_of(FUNCTION) == off
    assert mappings.switch(off, on=False) is off
    assert mappings.switch(off, on=True).state in mappings.ENABLED


def test_a_function_that_is_not_there_has_no_mapping() -> None:
    assert mappings.mapping_of("nobody") is None
