"""`email.*`: sends one mail to one recipient. The same three steps for every type (docs/architecture.md, rule 5).

prepare   who, whether, what, and when: commits the intent with the slot that it reserves
send      at the slot's time, without a connection
record    what the provider said, committed together with the settling
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from functions.aws import ses
from functions.core.job import Job
from functions.core.outcome import GiveUp, Outcome, Snooze
from functions.email import queries
from functions.email.attach import attached
from functions.email.compose import compose
from functions.email.eligibility import DOUBT, RECIPIENT_PER_DAY, next_local_day, verdict
from functions.email.kinds import KINDS, Kind
from functions.email.limits import Limits
from functions.email.queries import Letter
from functions.email.receipts import Intent, SlotMissed, Unsettled, count_in_doubt, end_notices, meaning, with_row
from functions.email.reserve import Denied, Granted, Place, Wish, grant, limits_are_fresh, write_limits
from functions.email.settings import settings, unsubscribe_key
from functions.email.tokens import Subscription, make_token

if TYPE_CHECKING:
    from pydantic import BaseModel
    from sqlalchemy import Connection

    from functions.email.render import Look, Rendered

LATE_SECONDS = 0.5
"""A mail this much behind its slot gives it up: sent now, it would fall together with later slots."""
LATE_WITH_FILES_SECONDS = 10.0
"""The same where files were fetched first, which may take seconds, every time."""
SANDBOX = Limits(1, 200)
"""What a new account may send; taken where the provider does not say.
https://docs.aws.amazon.com/ses/latest/dg/request-production-access.html"""


class Mailer:
    """The outside effect behind all mail job types; stateless."""

    def prepare(self, jobs: Sequence[Job[Any]], tx: Connection) -> list[Intent | Unsettled | Outcome]:
        """Decide each mail and commit what is to be sent: about eight statements for each type, whatever the mails.

        All types reserve together: the slots are in the order of the jobs, and so are the sends of a group.
        """
        kinds: dict[str, list[Job[Any]]] = {}
        for job in jobs:
            kinds.setdefault(job.type, []).append(job)
        letters = queries.load(tx, jobs, doubt_seconds=DOUBT.total_seconds())
        answers: dict[UUID, Any] = {}
        rendered: dict[UUID, Rendered] = {}
        for name, members in kinds.items():
            kind = KINDS[name]
            for job in members:
                if (ending := verdict(letters[job.id], kind)) is not None:
                    answers[job.id] = ending
            models = compose(tx, [job for job in members if job.id not in answers], letters, kind)
            rendered |= _render(models, letters, kind, answers)
        if rendered:
            answers |= _reserve(tx, jobs, letters, rendered)
        for name, members in kinds.items():
            end_notices(tx, KINDS[name], {job.id: answers[job.id] for job in members})
        return [with_row(letters[job.id], answers[job.id]) for job in jobs]

    def send(self, intent: Intent | Unsettled) -> str | None:
        """Send at the slot's time. Returns the provider's id; raises `MailError` or `SlotMissed`."""
        if isinstance(intent, Unsettled):
            return None
        mail = attached(intent.mail, intent.attachments, intent.tenant_id)
        wait = intent.start - time.monotonic()
        if wait < -(LATE_WITH_FILES_SECONDS if intent.attachments else LATE_SECONDS):
            raise SlotMissed(f"the worker was held up {-wait:.1f} s past the mail's slot")
        time.sleep(max(0.0, wait))
        return ses.send(mail)

    def record(self, sent: Sequence[tuple[Intent | Unsettled, Any]], tx: Connection) -> list[Outcome]:
        """Complete the intents' rows and notices: two statements."""
        now = queries.database_now(tx)
        results, outcomes = [], []
        for intent, receipt in sent:
            result, outcome = meaning(intent, receipt, now)
            outcomes.append(outcome)
            if result is not None:
                results.append(result)
        if results:
            queries.record(tx, results)
        count_in_doubt(outcomes)
        end_notices(tx, None, {intent.job_id: outcome for (intent, _), outcome in zip(sent, outcomes, strict=True)})
        return outcomes


MAILER = Mailer()


def _render(
    models: Mapping[UUID, BaseModel | Outcome], letters: Mapping[UUID, Letter], kind: Kind, answers: dict[UUID, Any]
) -> dict[UUID, Rendered]:
    """Text of every mail that can be written; why one cannot goes into `answers`."""
    from functions.email.render import render

    rendered = {}
    for job_id, model in models.items():
        if isinstance(model, Outcome):
            answers[job_id] = model
            continue
        letter = letters[job_id]
        unsubscribe_url = _unsubscribe_url(letter, kind)  # a secret store that is away is not this mail's failure
        try:
            rendered[job_id] = render(kind.mail_type, model, _look(letter, unsubscribe_url))
        except Exception as error:  # noqa: BLE001 - one mail that cannot be written must not hold up its neighbours
            answers[job_id] = GiveUp(f"the mail cannot be written: {type(error).__name__}: {error}")
    return rendered


def _look(letter: Letter, unsubscribe_url: str | None) -> Look:
    from functions.email.render import Look

    return Look(
        tenant_name=letter.tenant_name or "",
        color=letter.color,
        logo_url=letter.logo_url,
        locale=letter.locale,
        time_zone=letter.time_zone,
        tenant_locale=letter.tenant_locale,
        recipient_name=letter.name,
        unsubscribe_url=unsubscribe_url,
    )


def _unsubscribe_url(letter: Letter, kind: Kind) -> str | None:
    """Where the link of a mail leads; a critical one has none."""
    if kind.critical:
        return None
    assert letter.tenant_id is not None  # noqa: S101 - verdict() ended the others
    where = settings()
    subscription = Subscription(letter.tenant_id, letter.kind, letter.recipient_id, kind.categories)
    token = make_token(unsubscribe_key(where.unsubscribe_secret_arn), subscription, now=letter.now)
    return f"{where.unsubscribe_url}?token={token}"


def _reserve(
    tx: Connection,
    jobs: Sequence[Job[Any]],
    letters: Mapping[UUID, Letter],
    rendered: Mapping[UUID, Rendered],
) -> dict[UUID, Intent | Outcome]:
    if not limits_are_fresh(tx):
        write_limits(tx, _provider_limits())
    wanting = [job for job in jobs if job.id in rendered]
    answers: dict[UUID, Intent | Outcome] = {}
    for critical in (True, False):
        some = {job.id: job for job in wanting if KINDS[job.type].critical is critical}
        if not some:
            continue
        wishes = [_wish(letters[job.id], job, KINDS[job.type], rendered[job.id].subject) for job in some.values()]
        for job_id, found in grant(tx, wishes, critical=critical).items():
            if isinstance(found, Denied):
                answers[job_id] = Snooze(found.until, found.reason)
            else:
                kind = KINDS[some[job_id].type]
                answers[job_id] = _intent(some[job_id], letters[job_id], rendered[job_id], found, kind)
    return answers


def _provider_limits() -> Limits:
    from botocore.exceptions import BotoCoreError, ClientError

    from functions.pipeline import observe

    try:
        quota = ses.quota()
    except (BotoCoreError, ClientError) as error:
        observe.logger().error("limits_unknown", error=observe.summary(error), taken=str(SANDBOX))
        return SANDBOX
    return Limits(quota.per_second, quota.per_day)


def _wish(letter: Letter, job: Job[Any], kind: Kind, subject: str) -> Wish:
    row = {
        "job_id": job.id,
        "tenant_id": letter.tenant_id,
        "type": job.type,
        "critical": kind.critical,
        "recipient_kind": letter.kind,
        "recipient_id": letter.recipient_id,
        "address": letter.address,
        "subject": subject,
    }
    if kind.critical:
        return Wish(job.id, (), row)
    days = {zone: next_local_day(letter.now, zone) for zone in (letter.tenant_zone, letter.time_zone)}
    places = [
        ("tenant", str(letter.tenant_id), letter.tenant_zone, letter.mail_per_day),
        ("recipient", f"{letter.kind}/{letter.recipient_id}", letter.time_zone, RECIPIENT_PER_DAY),
    ]
    return Wish(
        job.id,
        [
            Place(scope, key, queries.local_date(letter.now, zone), most, days[zone])
            for scope, key, zone, most in places
        ],
        row,
    )


def _intent(job: Job[Any], letter: Letter, rendered: Rendered, granted: Granted, kind: Kind) -> Intent:
    assert letter.tenant_id is not None  # noqa: S101 - verdict() ended the others
    assert letter.address is not None  # noqa: S101
    where = settings()
    headers = {}
    if (url := _unsubscribe_url(letter, kind)) is not None:
        headers = {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    mail = ses.Mail(
        sender=where.sender,
        to=letter.address,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        configuration_set=where.configuration_set,
        headers=headers,
        tags={"job": str(job.id), "tenant": str(letter.tenant_id)},
    )
    return Intent(job.id, letter.tenant_id, kind.critical, granted.start, mail, getattr(job.payload, "attachments", ()))
