"""Writes docs/jobs.md, the reference of every queue, schedule and job type, from the catalogue and the contracts.

`uv run python -m duecourse.job_catalogue` writes it; with `--check`, as in `make check`, it only says whether it is
current.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from duecourse.payload_fields import fields
from duecourse.words import duration
from functions.core.catalog import CATALOG, EXTRA_RECEIVES, Catalog, JobType, Queue
from functions.core.limits import (
    EARLIEST_BEFORE_NOW,
    LARGEST_CHECKPOINT,
    LARGEST_PAYLOAD,
    LARGEST_RESULT,
    LONGEST_CORRELATION_ID,
    LONGEST_DEDUP_KEY,
)
from functions.core.outcome import LONGEST_DELAY_SECONDS
from functions.core.resolve import resolve
from functions.core.retry import MAX_VISIBILITY_DELAY_SECONDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "jobs.md"
LINE_LENGTH = 120
COMMAND = "uv run python -m duecourse.job_catalogue"

INTRODUCTION = """\
# Queues, schedules and job types

Written by `{command}` from `functions/core/catalog.py` and the contracts
of the payloads; `make check` fails when it is not what they say. [Architecture](architecture.md) tells how a job flows.

On AWS a queue's name has the stack's name before it, a dead-letter queue has `-dlq` behind it, and a FIFO queue ends
in `.fifo`: `duecourse-prod-email-dlq.fifo`.
"""

QUEUES = f"""\
## Queues

One worker function empties each. *Visibility* is six timeouts and the batching window. *Late after*: a job or message
that waits for longer raises an alarm. *Receives*: after so many SQS moves a message to the dead-letter queue; the most
attempts of the queue's jobs + {EXTRA_RECEIVES}.
"""

SCHEDULES = """\
## Schedules

A job for each tenant and day, at this time of the tenant's own day. A run that would start later than the last column
allows is recorded as missed.
"""


def document(catalog: Catalog = CATALOG) -> str:
    """The whole page."""
    parts = [
        INTRODUCTION.format(command=COMMAND),
        _queues(catalog),
        _schedules(catalog),
        _limits(),
        "## Job types\n",
        *(_job_type(row, catalog) for row in sorted(catalog.job_types.values(), key=lambda row: row.name)),
    ]
    return "\n".join(parts)


def _queues(catalog: Catalog) -> str:
    rows = [
        (
            f"`{queue.name}`",
            "FIFO" if queue.fifo else "standard",
            duration(queue.timeout_seconds),
            duration(queue.visibility_seconds),
            _batch(queue),
            str(queue.max_concurrency),
            duration(queue.late_after_seconds),
            str(catalog.max_receive_count(queue.name)),
        )
        for queue in catalog.queues.values()
    ]
    head = (
        "Queue",
        "Kind",
        "Worker's timeout",
        "Visibility",
        "Batch up to",
        "Workers at once",
        "Late after",
        "Receives",
    )
    return f"{QUEUES}\n{_table(head, rows)}"


def _batch(queue: Queue) -> str:
    window = queue.batch_window_seconds
    return f"{queue.batch_size} within {duration(window)}" if window else str(queue.batch_size)


def _schedules(catalog: Catalog) -> str:
    rows = [
        (
            f"`{row.name}`",
            f"{row.local_time:%H:%M}",
            f"[`{row.job_type}`](#{_anchor(row.job_type)})",
            duration(row.catch_up.total_seconds()),
        )
        for row in sorted(catalog.schedules.values(), key=lambda row: row.local_time)
    ]
    head = ("Schedule", "Local time", "Job", "Caught up within")
    return f"{SCHEDULES}\n{_table(head, rows)}"


def _limits() -> str:
    from functions.email.eligibility import RECIPIENT_PER_DAY
    from functions.email.limits import CRITICAL_RESERVE
    from functions.email.payloads import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS
    from functions.pipeline.decide import ERROR_LIMIT, TRACEBACK_LIMIT
    from functions.pipeline.enqueue import ORDERS_PER_STATEMENT
    from functions.pipeline.months import RETENTION_MONTHS
    from functions.pipeline.schedule import JITTER_SECONDS
    from functions.pipeline.sweep import FIRST_RESEND_SECONDS, MESSAGE_RETENTION
    from functions.pipeline.triage import LOSSES_ALONE_UNTIL_DEATH

    rows = [
        ("Jobs ordered in one statement", f"{ORDERS_PER_STATEMENT:,}; more are split"),
        ("Deduplication key", f"1 to {LONGEST_DEDUP_KEY} characters"),
        ("Correlation id", f"1 to {LONGEST_CORRELATION_ID} characters, and no control characters"),
        (
            "Payload, checkpoint and result",
            f"{LARGEST_PAYLOAD:,}, {LARGEST_CHECKPOINT:,} and {LARGEST_RESULT:,} bytes of JSON",
        ),
        ("Instants of an order", f"from {EARLIEST_BEFORE_NOW.days} days ago to ten years ahead"),
        ("A wait ordered by a handler", f"at most {duration(LONGEST_DELAY_SECONDS)}"),
        ("A retry's wait in the queue", f"at most {duration(MAX_VISIBILITY_DELAY_SECONDS)}; longer ones in the ledger"),
        ("Lost runs, alone in their batch, until a job is dead", str(LOSSES_ALONE_UNTIL_DEATH)),
        ("A silent job is sent again", f"after {duration(FIRST_RESEND_SECONDS)}, then after twice as long each time"),
        ("A tenant's own delay within a schedule", f"0 to {duration(JITTER_SECONDS - 1)}, always the same"),
        ("Messages are kept in SQS", duration(MESSAGE_RETENTION / timedelta(seconds=1))),
        ("Closed jobs are kept in the ledger", f"{RETENTION_MONTHS} months"),
        ("Error text kept", f"{ERROR_LIMIT:,} characters, and {TRACEBACK_LIMIT:,} of the traceback"),
        ("Mails to one reader", f"{RECIPIENT_PER_DAY} a day"),
        ("Share of the provider's limits kept for password resets", f"{CRITICAL_RESERVE:.0%}"),
        ("Attachments of a mail", f"{MAX_ATTACHMENTS}, together {MAX_ATTACHMENT_BYTES / 2**20:g} MiB"),
    ]
    return f"## Limits\n\n{_table(('What', 'Limit'), rows)}"


def _job_type(row: JobType, catalog: Catalog) -> str:
    contract = resolve(row.payload)
    schedules = [f"`{schedule.name}`" for schedule in catalog.schedules.values() if schedule.job_type == row.name]
    facts = [
        f"* Queue `{row.queue}`; contract `{_file(row.payload)}` `{contract.__name__}`; code `{_file(row.perform)}`.",
        f"* {_retries(row)}",
    ]
    if schedules:
        facts.append(f"* Planned by {', '.join(schedules)}.")
    if row.set_based:
        facts.append("* Set-based: all jobs of a batch in a constant number of statements.")
    if row.outside_effect:
        facts.append("* Has an effect outside the database: prepared, sent and recorded in three steps.")
    if row.system:
        facts.append("* Nobody's own work: the API takes no order of it from a token of one tenant.")
    if row.forgets:
        names = ", ".join(f"`{name}`" for name in row.forgets)
        facts.append(f"* Once it is completed, its payload's {names} {'are' if len(row.forgets) > 1 else 'is'} gone.")
    head = ("Field", "Type", "Needed", "Rules")
    rows = [(f"`{f.path}`", f.type, "yes" if f.required else f.default, f.rules) for f in fields(contract)]
    told = inspect.cleandoc(contract.__doc__ or "").split("\n\n")
    paragraphs = "\n\n".join(textwrap.fill(" ".join(paragraph.split()), LINE_LENGTH) for paragraph in told)
    return "\n".join([f"### {row.name}\n", f"{paragraphs}\n", *facts, "", _table(head, rows)])


def _retries(row: JobType) -> str:
    policy = row.retry
    if policy.max_attempts == 1:
        return "One attempt."
    waits = [policy.ceiling_seconds(failed) for failed in range(1, policy.max_attempts)]
    return (
        f"{policy.max_attempts} attempts; between them at most {', '.join(map(duration, waits))}"
        f" ({duration(sum(waits))} in all), each wait drawn evenly from 0 up."
    )


def _file(dotted: str) -> str:
    module, _, _ = dotted.partition(":")
    return f"{module.replace('.', '/')}.py"


def _anchor(heading: str) -> str:
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "-_")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield f"| {' | '.join(head)} |"
        yield "|---" * len(head) + "|"
        for row in rows:
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"

    return "\n".join(lines()) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is current: exit status 1 when it is not."""
    made = document()
    if arguments == ["--check"]:
        current = DOCUMENT.exists() and DOCUMENT.read_text() == made
        print("docs/jobs.md is current" if current else f"docs/jobs.md is not what the code says: run `{COMMAND}`")
        return 0 if current else 1
    if arguments:
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    DOCUMENT.write_text(made)
    print(f"{DOCUMENT} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
