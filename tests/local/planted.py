"""Faults for the doctor to find: each planted in a running stack, and put right again at the end of its block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from duecourse.local import functions
from tests.local.world import World

COUNT = """
    INSERT INTO job_count_deltas (queue, type, state, delta) VALUES ('upkeep', 'upkeep.probe', 'enqueued', {})
"""
Fault = Callable[[World], AbstractContextManager[None]]


@contextmanager
def attribute(world: World, queue: str, name: str, value: str) -> Iterator[None]:
    """A queue with another attribute than it was made with."""
    sqs, url = world.stack.client("sqs"), world.stack.queue_url(queue)
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"][name]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={name: value})
    yield
    sqs.set_queue_attributes(QueueUrl=url, Attributes={name: before})


@contextmanager
def a_mapping_switched_off(world: World) -> Iterator[None]:
    client = world.stack.client("lambda")
    [mapping] = client.list_event_source_mappings(FunctionName="duecourse-local-email-worker")["EventSourceMappings"]
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    yield
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


def no_redrive_policy(world: World) -> AbstractContextManager[None]:
    return attribute(world, "email-bulk", "RedrivePolicy", "")


def too_few_receives(world: World) -> AbstractContextManager[None]:
    arn = "arn:aws:sqs:us-east-1:000000000000:duecourse-local-email-dlq.fifo"
    return attribute(
        world, "email.fifo", "RedrivePolicy", json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
    )


def a_dead_letter_queue_that_takes_nothing(world: World) -> AbstractContextManager[None]:
    return attribute(world, "upkeep-dlq", "RedriveAllowPolicy", json.dumps({"redrivePermission": "denyAll"}))


def a_short_visibility(world: World) -> AbstractContextManager[None]:
    return attribute(world, "notifications", "VisibilityTimeout", "30")


def a_short_retention(world: World) -> AbstractContextManager[None]:
    return attribute(world, "ses-events-dlq", "MessageRetentionPeriod", "345600")


@contextmanager
def a_dead_letter(world: World) -> Iterator[None]:
    sqs, url = world.stack.client("sqs"), world.stack.queue_url("scheduled-email-dlq")
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    yield
    sqs.purge_queue(QueueUrl=url)


@contextmanager
def a_rule_switched_off(world: World) -> Iterator[None]:
    events = world.stack.client("events")
    [name] = [rule["Name"] for rule in events.list_rules()["Rules"] if "DailyDigestFunctionTick" in rule["Name"]]
    events.disable_rule(Name=name)
    yield
    events.enable_rule(Name=name)


@contextmanager
def a_slower_worker(world: World) -> Iterator[None]:
    client, name = world.stack.client("lambda"), "duecourse-local-email-bulk-worker"
    for seconds in (120, 60):
        client.update_function_configuration(FunctionName=name, Timeout=seconds)
        client.get_waiter("function_active_v2").wait(FunctionName=name)
        if seconds == 120:
            yield


@contextmanager
def no_concurrency_left(world: World) -> Iterator[None]:
    client, name = world.stack.client("lambda"), "duecourse-local-migrate"
    free = client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=free - 10)
    yield
    client.delete_function_concurrency(FunctionName=name)


@contextmanager
def a_secret_marked_for_deletion(world: World) -> Iterator[None]:
    manager, arn = world.stack.client("secretsmanager"), world.stack.outputs["DatabaseSecretArn"]
    manager.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    yield
    manager.restore_secret(SecretId=arn)


@contextmanager
def the_sandbox(world: World) -> Iterator[None]:
    ses = world.stack.client("sesv2")
    details = {"MailType": "TRANSACTIONAL", "WebsiteURL": "https://duecourse.example", "UseCaseDescription": "notices"}
    ses.put_account_details(ProductionAccessEnabled=False, **details)
    yield
    ses.put_account_details(ProductionAccessEnabled=True, **details)


@contextmanager
def events_that_nobody_reports(world: World) -> Iterator[None]:
    ses, names = world.stack.client("sesv2"), {"ConfigurationSetName": "duecourse-local-mail"}
    [destination] = ses.get_configuration_set_event_destinations(**names)["EventDestinations"]
    ses.delete_configuration_set_event_destination(EventDestinationName=destination["Name"], **names)
    yield
    name = destination.pop("Name")
    ses.create_configuration_set_event_destination(EventDestinationName=name, EventDestination=destination, **names)


@contextmanager
def events_that_go_nowhere(world: World) -> Iterator[None]:
    events = world.stack.client("events")
    events.disable_rule(Name="duecourse-local-ses-events")
    yield
    events.enable_rule(Name="duecourse-local-ses-events")


@contextmanager
def an_alarm_that_is_on(world: World) -> Iterator[None]:
    cloudwatch = world.stack.client("cloudwatch")
    name = "duecourse-local-email-dead-letters"
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="planted")
    yield
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="put right")


@contextmanager
def statement(world: World, plant: str, undo: str) -> Iterator[None]:
    """The database, changed by hand."""
    with world.engine.begin() as tx:
        tx.exec_driver_sql(plant)
    yield
    with world.engine.begin() as tx:
        tx.exec_driver_sql(undo)


def a_schema_behind_the_code(world: World) -> AbstractContextManager[None]:
    [row] = world.rows("SELECT version_num FROM alembic_version")
    return statement(
        world,
        "UPDATE alembic_version SET version_num = '0001'",
        f"UPDATE alembic_version SET version_num = '{row.version_num}'",
    )


def missing_partitions(world: World) -> AbstractContextManager[None]:
    [row] = world.rows("""
        SELECT string_agg('jobs_' || to_char(now() + n * interval '1 month', 'YYYY_MM'), ', ') AS names
        FROM generate_series(2, 3) AS n
    """)
    return statement(world, f"DROP TABLE {row.names}", "SELECT ensure_job_partitions(3)")


def a_schedule_switched_off(world: World) -> AbstractContextManager[None]:
    return statement(
        world,
        "UPDATE schedules SET enabled_since = NULL WHERE name = 'daily-filing-check'",
        "UPDATE schedules SET enabled_since = now() WHERE name = 'daily-filing-check'",
    )


@contextmanager
def a_job_that_nobody_counted(world: World) -> Iterator[None]:
    with statement(world, COUNT.format("+1"), COUNT.format("-1")):
        functions.invoke(world.stack, "sweep", {})
        yield
    functions.invoke(world.stack, "sweep", {})


def a_silent_relay(world: World) -> AbstractContextManager[None]:
    return statement(
        world,
        "UPDATE heartbeats SET at = now() - interval '1 hour' WHERE name = 'relay'",
        "UPDATE heartbeats SET at = now() WHERE name = 'relay'",
    )


def a_revoked_token(world: World) -> AbstractContextManager[None]:
    return statement(
        world,
        "UPDATE api_tokens SET revoked_at = now() WHERE name = 'local'",
        "UPDATE api_tokens SET revoked_at = NULL WHERE name = 'local'",
    )


FAULTS: list[tuple[Fault, str, str, str]] = [
    (a_mapping_switched_off, "mappings", "nothing takes messages from email: its mapping is Disabl", "--enabled"),
    (no_redrive_policy, "dead letters", "email-bulk has no redrive policy", "duecourse-local-email-bulk-dlq"),
    (too_few_receives, "dead letters", "email gives a message up after 3 receives, not 20", "maxReceiveCount"),
    (
        a_dead_letter_queue_that_takes_nothing,
        "dead letters",
        "the dead-letter queue of upkeep takes nothing",
        "byQueue",
    ),
    (a_short_visibility, "visibility", "notifications shows a message again after 30 s", '"VisibilityTimeout": "361"'),
    (a_slower_worker, "visibility", "email-bulk shows a message again after 360 s", '"VisibilityTimeout": "720"'),
    (a_short_retention, "queues", "duecourse-local-ses-events-dlq forgets a message after 4.0 days", "1209600"),
    (a_dead_letter, "backlog", "the dead-letter queue of scheduled-email holds 1 message", "jobs list scheduled-email"),
    (a_rule_switched_off, "rules", "the rule duecourse-local-DailyDigestFunctionTick", "aws events enable-rule"),
    (no_concurrency_left, "concurrency", "the account runs 10 functions at once", "request-service-quota-increase"),
    (a_secret_marked_for_deletion, "secrets", "is marked for deletion", "restore-secret"),
    (the_sandbox, "mail account", "SES is in its sandbox", "--production-access-enabled"),
    (events_that_nobody_reports, "mail events", "SES does not report BOUNCE", "infra/mail.yaml"),
    (
        events_that_go_nowhere,
        "mail events",
        "the rule duecourse-local-ses-events is DISABLED",
        "aws events enable-rule",
    ),
    (an_alarm_that_is_on, "alarms", "the alarm duecourse-local-email-dead-letters is on", "docs/runbooks/"),
    (a_schema_behind_the_code, "migrations", "the schema is at revision 0001, the deployed code needs", "-migrate"),
    (missing_partitions, "partitions", "the last partition of jobs is that of", "duecourse-local-sweep"),
    (a_schedule_switched_off, "schedules", "daily-filing-check is switched off", "SET enabled_since = now()"),
    (a_job_that_nobody_counted, "conservation", "the counts of jobs do not add up", "docs/runbooks/conservation.md"),
    (a_silent_relay, "heartbeats", "the relay was last heard of 1 h ago", "/aws/lambda/duecourse-local-relay"),
    (a_revoked_token, "api", "the token is not valid", "duecourse token create"),
]
