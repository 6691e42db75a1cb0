"""Every function under its own role, with IAM enforced: what it needs it may do, and what is not its own it may not."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from duecourse.local import deploy, emulator, functions
from duecourse.local.stack import Stack
from duecourse.local.state import REPOSITORY, Home
from functions.core.catalog import CATALOG
from functions.db.engine import make_engine
from functions.db.settings import DatabaseSettings, connection_url
from tests.api import event
from tests.contract.test_permissions import QUEUES_OF
from tests.contract.test_template import HANDLERS
from tests.harness import new_tenant, order, probe, states

pytestmark = [pytest.mark.stack, pytest.mark.slow]

PATIENCE_SECONDS = 60
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    # The batch calls stay empty: a refusal comes before SQS looks at them, and nothing reaches a queue.
    "sqs:SendMessage*": ("send_message_batch", {"Entries": []}),
    "sqs:ReceiveMessage": ("receive_message", {"VisibilityTimeout": 0}),
    "sqs:DeleteMessage*": ("delete_message_batch", {"Entries": []}),
    "sqs:ChangeMessageVisibility*": ("change_message_visibility_batch", {"Entries": []}),
    "sqs:GetQueueAttributes": ("get_queue_attributes", {"AttributeNames": ["All"]}),
    "sqs:PurgeQueue": ("purge_queue", {}),
    "sqs:SetQueueAttributes": ("set_queue_attributes", {"Attributes": {"VisibilityTimeout": "0"}}),
    "sqs:DeleteQueue": ("delete_queue", {}),
}

# Runs as a function under the role in question, so that the credentials are those that the runtime gives it.
PROBE = """
import boto3
from botocore.exceptions import ClientError

def handler(event, context):
    print(f"{len(event)} calls")
    return [may(boto3.client(service), method, arguments) for service, method, arguments in event]

def may(client, method, arguments):
    try:
        getattr(client, method)(**arguments)
    except ClientError as error:
        return not error.response["Error"]["Code"].startswith("AccessDenied")
    return True
"""


@pytest.fixture(scope="module")
def engine(postgres: DatabaseSettings) -> Iterator[Engine]:
    """An empty database of this module's own; the stack's deployment migrates it."""
    server = make_engine(postgres).execution_options(isolation_level="AUTOCOMMIT")
    name = f"roles_{os.getpid()}"
    with server.connect() as admin:
        admin.execute(text(f"CREATE DATABASE {name}"))
    engine = make_engine(replace(postgres, database=name))
    yield engine
    engine.dispose()
    with server.connect() as admin:
        admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="module")
def stack(engine: Engine, postgres: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The template, deployed on an emulator that enforces IAM."""
    database = replace(postgres, database=f"roles_{os.getpid()}")
    home = Home(tmp_path_factory.mktemp("iam"))
    endpoint = emulator.start(home, variables={"AUTH": "true"}).endpoint
    made = deploy.deploy(endpoint, database, repository=REPOSITORY, migrated=False)
    stack = Stack(endpoint, connection_url(database), made.outputs)
    events = stack.client("events")
    for rule in events.list_rules()["Rules"]:  # the tests alone call the functions
        events.disable_rule(Name=rule["Name"])
    yield stack
    emulator.stop(home)


def role(stack: Stack, suffix: str) -> str:
    found = stack.client("lambda").get_function_configuration(FunctionName=f"{stack.name}-{suffix}")
    return str(found["Role"])


def ask(stack: Stack, suffix: str, calls: list[tuple[str, str, dict[str, Any]]]) -> list[bool]:
    """For each call, whether IAM lets the function's role make it."""
    lambda_ = stack.client("lambda")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("probe.py", PROBE)
    lambda_.create_function(
        FunctionName=f"probe-{suffix}",
        Runtime="python3.13",
        Handler="probe.handler",
        Role=role(stack, suffix),
        Code={"ZipFile": archive.getvalue()},
        Timeout=60,
    )
    answer = lambda_.invoke(FunctionName=f"probe-{suffix}", Payload=json.dumps(calls))
    lambda_.delete_function(FunctionName=f"probe-{suffix}")
    found = json.loads(answer["Payload"].read())
    assert isinstance(found, list), found
    return found


@pytest.mark.parametrize("suffix", HANDLERS)
def test_a_function_reaches_its_own_queues_and_no_other(stack: Stack, suffix: str) -> None:
    kinds = {queue.name: ".fifo" if queue.fifo else "" for queue in CATALOG.queues.values()}
    every = {f"{name}{dlq}{fifo}" for name, fifo in kinds.items() for dlq in ("", "-dlq")}
    asked = [(queue, action) for queue in sorted(every) for action in CALLS]
    urls = {queue: stack.queue_url(queue) for queue in every}
    calls = [("sqs", CALLS[action][0], {"QueueUrl": urls[queue], **CALLS[action][1]}) for queue, action in asked]
    actions, arns = QUEUES_OF[suffix]
    own = {arn.rsplit(":", 1)[1].split("-", 1)[1] for arn in arns}
    allowed = {pair for pair, may in zip(asked, ask(stack, suffix, calls), strict=True) if may}
    assert allowed == {(queue, action) for queue in own for action in actions}


@pytest.mark.parametrize("suffix", HANDLERS)
def test_a_function_reads_the_database_secret_and_no_other(stack: Stack, suffix: str) -> None:
    secrets = stack.client("secretsmanager")
    other = secrets.create_secret(Name=f"another-{suffix}", SecretString="x")["ARN"]
    own = stack.outputs["DatabaseSecretArn"]
    calls = [
        ("secretsmanager", "get_secret_value", {"SecretId": own}),
        ("secretsmanager", "get_secret_value", {"SecretId": other}),
        ("secretsmanager", "put_secret_value", {"SecretId": own, "SecretString": "x"}),
        ("secretsmanager", "list_secrets", {}),
    ]
    assert ask(stack, suffix, calls) == [True, False, False, False]


def test_every_function_does_its_work_under_its_role(stack: Stack, engine: Engine) -> None:
    with engine.begin() as tx:
        new_tenant(tx)
        tx.execute(text("UPDATE schedules SET enabled_since = '2026-11-24'"))
    invoke(stack, "migrate", {})
    tick = functions.read_event("daily-compliance-refresh", None) | {"detail": {"jitter": False}}
    assert invoke(stack, "daily-compliance-refresh", tick) == {"planned": 1, "missed": 0, "sent": 1}
    with engine.begin() as tx:
        order(tx, probe(note="sent by the sweep"))
    assert invoke(stack, "sweep", {})["relayed"] == 1
    with engine.begin() as tx:
        [dies, _] = order(tx, probe(give_up=True), probe(note="sent by the relay"))
    # It goes on for a minute: not waited for.
    stack.client("lambda").invoke(FunctionName=f"{stack.name}-relay", InvocationType="Event", Payload=b"{}")

    def outcome() -> dict[str, int]:
        with engine.begin() as tx:
            return states(tx)

    def dead_letters() -> list[dict[str, Any]]:
        queue = stack.queue_url("upkeep-dlq")
        received = stack.client("sqs").receive_message(QueueUrl=queue, VisibilityTimeout=0, MaxNumberOfMessages=10)
        return list(received.get("Messages", []))

    deadline = time.monotonic() + PATIENCE_SECONDS
    while (outcome() != {"completed": 3, "dead": 1} or not dead_letters()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert outcome() == {"completed": 3, "dead": 1}
    assert [json.loads(message["Body"])["id"] for message in dead_letters()] == [str(dies)]


def test_the_api_looks_at_queues_and_switches_workers_under_its_role(stack: Stack) -> None:
    order = {"action": "create", "name": "roles", "role": "admin", "by": "tests"}
    token = invoke(stack, "tokens", order)["token"]

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = invoke(stack, "api", event(method, path, token=token, body=body))
        return answer["statusCode"], json.loads(answer["body"])

    status, health = ask("GET", "/health/queues")
    assert (status in {200, 503}, len(health["queues"])) == (True, len(CATALOG.queues)), health
    assert ask("GET", "/health/workers")[0] in {200, 503}
    for action, expected in {"pause": {"Disabling", "Disabled"}, "resume": {"Enabling", "Enabled"}}.items():
        status, found = ask("POST", f"/queues/upkeep/{action}", {} if action == "pause" else None)
        assert status in {200, 202}, found
        assert found["mapping"]["state"] in expected


def invoke(stack: Stack, suffix: str, event: Any) -> dict[str, Any]:
    called = functions.invoke(stack, suffix, event)
    assert not called.failed, called.response
    return dict(called.response)
