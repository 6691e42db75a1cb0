"""The catalogue: one row per queue, job type and schedule. Code, template and database are held to it.

Standard library only, so that it costs a cold start nothing. Payload and perform are dotted strings
(`package.module:name`): a worker imports only the job in hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta

from functions.core.errors import ConfigurationError, UnknownJobType
from functions.core.retry import RetryPolicy

EXTRA_RECEIVES = 15
"""maxReceiveCount is attempts + this: hand-backs that are not attempts (outages, throttling, early deliveries) must
not dead-letter a message (docs/architecture.md, rule 7)."""

MAIL_CATCH_UP = timedelta(hours=6)
"""A notice planned in the evening would be read the next day, whose own run covers it."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One SQS queue and the worker that empties it. The template is held to these numbers by tests/contract."""

    name: str
    timeout_seconds: int
    """The worker function's timeout."""
    batch_size: int = 10
    batch_window_seconds: int = 0
    max_concurrency: int = 10
    fifo: bool = False
    late_after_seconds: int = 1_800
    """A job or message that waits for longer is late: it alarms."""

    @property
    def visibility_seconds(self) -> int:
        """Six timeouts plus the batching window: AWS's advice for event source mappings."""
        return 6 * self.timeout_seconds + self.batch_window_seconds


@dataclass(frozen=True, slots=True)
class JobType:
    """One kind of job: where it travels, how it is retried, what it takes and what it does."""

    name: str
    queue: str
    payload: str
    """Dotted string of its pydantic contract."""
    perform: str
    """Dotted string of its handler: `perform(job, tx)`, or `perform(jobs, tx)` when `set_based`, or an object with
    `prepare`, `send` and `record` when `outside_effect`."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    set_based: bool = False
    outside_effect: bool = False
    system: bool = False
    """Whether it is nobody's own work: the API takes no order of it from a token of one tenant."""
    group: tuple[str, ...] = ()
    """On a FIFO queue, the fields of its payload that name its group: jobs of one tenant that agree in them start one
    after the other. Whoever orders has no say in it."""
    strict: bool = False
    """On a FIFO queue: it holds its group until it has ended, not only until it has started."""
    forgets: tuple[str, ...] = ()
    """Fields of its payload that nobody is to read once it is done: links that let their holder in, addresses. They are
    gone when the job is completed; a dead one keeps them, or it could not be redriven."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A daily job per tenant, at a time of the tenant's own day."""

    name: str
    job_type: str
    local_time: time
    catch_up: timedelta
    """How late a run may still start; beyond it the day is recorded as missed and the next day's run covers it."""


class Catalog:
    """Look-ups over the rows. Tests build their own; everything else uses `CATALOG`."""

    def __init__(
        self, queues: tuple[Queue, ...], job_types: tuple[JobType, ...], schedules: tuple[Schedule, ...]
    ) -> None:
        self.queues: Mapping[str, Queue] = {queue.name: queue for queue in queues}
        self.job_types: Mapping[str, JobType] = {job_type.name: job_type for job_type in job_types}
        self.schedules: Mapping[str, Schedule] = {schedule.name: schedule for schedule in schedules}
        for row in job_types:
            fifo = self.queues[row.queue].fifo
            if fifo != bool(row.group) or (row.strict and not fifo):
                raise ConfigurationError(
                    f"job type {row.name!r} is on {'a FIFO' if fifo else 'a standard'} queue: a FIFO queue's types, and"
                    " no others, name the payload fields of their group"
                )

    def job_type(self, name: str) -> JobType:
        """The row of a job type. Raises `UnknownJobType`, naming those that exist."""
        try:
            return self.job_types[name]
        except KeyError:
            known = ", ".join(sorted(self.job_types))
            raise UnknownJobType(f"unknown job type {name!r}; the catalogue has: {known}") from None

    def forgets(self, queue: str) -> list[str]:
        """The payload fields that any of a queue's job types forgets."""
        return sorted({name for row in self.job_types.values() if row.queue == queue for name in row.forgets})

    def max_receive_count(self, queue: str) -> int:
        """MaxReceiveCount of a queue's redrive policy: the most attempts of its job types + EXTRA_RECEIVES."""
        attempts = [row.retry.max_attempts for row in self.job_types.values() if row.queue == queue]
        return max(attempts, default=RetryPolicy().max_attempts) + EXTRA_RECEIVES


SET_RETRY = RetryPolicy(max_attempts=5, base_seconds=15, cap_seconds=600)
"""For jobs that are one statement over a whole batch of tenants."""


def _planner(name: str, queue: str, module: str) -> JobType:
    """A job that plans notices or digests for a tenant's day."""
    return JobType(
        name,
        queue=queue,
        payload="functions.notifications.payloads:PlanDay",
        perform=f"functions.notifications.{module}:perform",
        retry=SET_RETRY,
        set_based=True,
    )


def _mail(name: str, queue: str, contract: str, *, forgets: tuple[str, ...] = ()) -> JobType:
    """A mail of one type; they differ in their payload and their lane. On a FIFO queue a recipient is a group."""
    return JobType(
        name,
        queue=queue,
        payload=f"functions.email.payloads:{contract}",
        perform="functions.email.send:MAILER",
        outside_effect=True,
        group=() if queue == "email-bulk" else ("recipient_kind", "recipient_id"),
        forgets=forgets,
    )


CATALOG = Catalog(
    queues=(
        Queue(
            "compliance-refresh",
            timeout_seconds=60,
            batch_size=100,
            batch_window_seconds=1,
            max_concurrency=4,
        ),
        Queue("upkeep", timeout_seconds=30, max_concurrency=2),
        Queue("notifications", timeout_seconds=60, batch_size=100, batch_window_seconds=1),
        Queue("filing-reminders", timeout_seconds=60, batch_size=100, batch_window_seconds=1),
        Queue("scheduled-email", timeout_seconds=60, batch_size=100, batch_window_seconds=1),
        Queue("email-critical", timeout_seconds=30, fifo=True, late_after_seconds=120),
        Queue("email", timeout_seconds=30, fifo=True, late_after_seconds=600),
        Queue("email-bulk", timeout_seconds=60),
        Queue("ses-events", timeout_seconds=30),
    ),
    job_types=(
        JobType(
            "compliance.refresh",
            queue="compliance-refresh",
            payload="functions.compliance.payloads:ComplianceRefresh",
            perform="functions.compliance.refresh:perform",
            retry=SET_RETRY,
            set_based=True,
        ),
        JobType(
            "upkeep.probe",
            queue="upkeep",
            payload="functions.upkeep.payloads:Probe",
            perform="functions.upkeep.probe:perform",
            retry=RetryPolicy(max_attempts=3, base_seconds=0.5, cap_seconds=2),
            system=True,
        ),
        JobType(
            "upkeep.redrive",
            queue="upkeep",
            payload="functions.upkeep.payloads:Redrive",
            perform="functions.upkeep.redrive:perform",
            retry=RetryPolicy(max_attempts=3, base_seconds=5, cap_seconds=60),
            system=True,
        ),
        _planner("email.document_expiry", "scheduled-email", "document_expiry"),
        _planner("email.filing_reminders", "scheduled-email", "filing_reminders"),
        _planner("email.digests", "scheduled-email", "digests"),
        _planner("notifications.expiry_check", "notifications", "expiry_check"),
        _planner("notifications.filing_check", "filing-reminders", "filing_check"),
        _mail("email.welcome", "email", "Welcome", forgets=("url",)),
        _mail("email.task_assignment", "email", "TaskAssignment"),
        _mail("email.service_request_update", "email", "ServiceRequestUpdate"),
        _mail("email.invoice", "email", "Invoice"),
        _mail("email.custom", "email", "Custom"),
        _mail("email.password_reset", "email-critical", "PasswordReset", forgets=("url",)),
        _mail("email.document_expiry_warning", "email-bulk", "DocumentExpiryWarning"),
        _mail("email.filing_reminder", "email-bulk", "FilingReminder"),
        _mail("email.digest", "email-bulk", "Digest"),
        JobType(
            "email.event",
            queue="ses-events",
            payload="functions.email.event_payloads:EmailEvent",
            perform="functions.email.events:perform",
            retry=SET_RETRY,
            set_based=True,
            system=True,
            forgets=("mail", "bounce", "complaint", "delivery", "deliveryDelay"),
        ),
    ),
    schedules=(
        Schedule(
            "daily-compliance-refresh",
            job_type="compliance.refresh",
            local_time=time(2, 0),
            catch_up=timedelta(hours=22),
        ),
        Schedule(
            "daily-document-expiry", job_type="email.document_expiry", local_time=time(7, 0), catch_up=MAIL_CATCH_UP
        ),
        Schedule(
            "daily-expiry-check", job_type="notifications.expiry_check", local_time=time(7, 30), catch_up=MAIL_CATCH_UP
        ),
        Schedule(
            "daily-filing-reminders", job_type="email.filing_reminders", local_time=time(8, 0), catch_up=MAIL_CATCH_UP
        ),
        Schedule("daily-digest", job_type="email.digests", local_time=time(8, 30), catch_up=MAIL_CATCH_UP),
        Schedule(
            "daily-filing-check", job_type="notifications.filing_check", local_time=time(9, 0), catch_up=MAIL_CATCH_UP
        ),
    ),
)
