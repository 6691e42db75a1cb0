"""The audit's case: documents that expire on five warning days, ten readers each, 5,000 mails a day in the old worker.

Then the same firm a hundred times. Counted are the mails that the provider accepted, and the statements.
"""

from __future__ import annotations

import time
from uuid import UUID

from sqlalchemy import text

from duecourse.bench import feed, mail_double
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Figure, Result
from duecourse.bench.refresh_world import TODAY
from duecourse.local.delivery import LONGEST_SECONDS, Context
from functions.aws.clients import client
from functions.core.errors import DuecourseError
from functions.core.job import JobRequest
from functions.db.engine import engine, statements, transaction
from functions.db.sessions import lift_limits
from functions.email.settings import settings as mail_settings
from functions.pipeline.enqueue import enqueue
from functions.pipeline.settings import settings
from functions.pipeline.worker import handle

READERS, CLIENTS, WARNING_DAYS = 10, 100, (30, 14, 7, 3, 1)
OLD_MAILS = READERS * CLIENTS * len(WARNING_DAYS)
PLANNER_BATCH, MAIL_BATCH = 100, 10
"""As template.yaml has them: scheduled-email and email-bulk."""
MOST_ROUNDS = 50
"""Mails wait for slots of the provider's rate; each round makes the waits over."""

WORLD = (
    "INSERT INTO document_types VALUES ('passport', 'Passport') ON CONFLICT DO NOTHING",
    """INSERT INTO tenants (id, name, time_zone, created_at)
       SELECT md5('tenant ' || n)::uuid, 'Firm ' || n, 'UTC', '2020-01-01' FROM generate_series(1, :tenants) AS n""",
    """INSERT INTO users (id, email, name)
       SELECT md5(t.id::text || 'user' || n)::uuid, 'user' || n || '@' || t.id || '.example', 'Ada Example'
       FROM tenants t, generate_series(1, :readers) AS n""",
    """INSERT INTO tenant_users (tenant_id, user_id, role)
       SELECT t.id, md5(t.id::text || 'user' || n)::uuid, 'staff'
       FROM tenants t, generate_series(1, :readers) AS n""",
    """INSERT INTO clients (tenant_id, id, name)
       SELECT t.id, md5(t.id::text || 'client' || n)::uuid, 'Client ' || n
       FROM tenants t, generate_series(1, :clients) AS n""",
    """INSERT INTO client_assignments (tenant_id, client_id, user_id)
       SELECT c.tenant_id, c.id, u.user_id FROM clients c JOIN tenant_users u ON u.tenant_id = c.tenant_id""",
    """INSERT INTO documents (tenant_id, id, client_id, document_type, status)
       SELECT c.tenant_id, md5(c.id::text || days)::uuid, c.id, 'passport', 'valid'
       FROM clients c, unnest(CAST(:days AS integer[])) AS days""",
    """INSERT INTO document_versions (tenant_id, document_id, version, expiry_date)
       SELECT c.tenant_id, md5(c.id::text || days)::uuid, 1, CAST(:today AS date) + days
       FROM clients c, unnest(CAST(:days AS integer[])) AS days""",
)


def run(bench: Bench) -> Result:
    """Mails, statements and seconds of one such firm, and of many."""
    result = Result()
    many = 10 if bench.small else 100
    with mail_double.running() as double:
        mail = {
            "AWS_ENDPOINT_URL": double.endpoint,
            "MAIL_SENDER": "no-reply@firm.example",
            "UNSUBSCRIBE_URL": "https://unsubscribe.example/",
            "UNSUBSCRIBE_SECRET_ARN": "arn:of:key",
        }
        with feed.environment(feed.ENVIRONMENT | mail), feed.quiet():
            for cached in (client, settings, mail_settings):
                cached.cache_clear()
            _day(bench, result, double, 1, warm_up=True)
            _day(bench, result, double, 1)
            _day(bench, result, double, many)
        client.cache_clear()
    result.figures["old mails"] = Figure.of([OLD_MAILS], "mails")
    result.limit("notices_mails", "1 x mails", against=f"{OLD_MAILS:,} mails of the old worker", target=READERS)
    result.compare(
        "notices_growth", f"{many} x seconds a notice", ["1 x seconds a notice"], sense="at most", target=1.3,
        against=f"the seconds a notice of one firm, at {many} of them",
    )  # fmt: skip
    return result


def _day(bench: Bench, result: Result, double: mail_double.Double, firms: int, *, warm_up: bool = False) -> None:
    with bench.postgres.under_test("bench_notices"):
        tenants = _build(firms)
        mails_before, statements_before, started = double.mails, statements.total, time.perf_counter()
        _work("email.document_expiry", tenants)
        _work("email.digests", tenants)
        _send()
        seconds = time.perf_counter() - started
        with transaction() as tx:
            notices = tx.execute(text("SELECT count(*) FROM notifications WHERE status = 'sent'")).scalar_one()
    if notices != OLD_MAILS * firms:
        raise DuecourseError(f"{notices} notices were sent, not {OLD_MAILS * firms}")
    if warm_up:
        return
    result.figures |= {
        f"{firms} x mails": Figure.of([float(double.mails - mails_before)], "mails"),
        f"{firms} x notices": Figure.of([float(notices)], "notices"),
        f"{firms} x statements": Figure.of([float(statements.total - statements_before)], "statements"),
        f"{firms} x seconds": Figure.of([seconds], "s"),
        f"{firms} x seconds a notice": Figure.of([seconds / notices], "s"),
    }


def _build(firms: int) -> list[UUID]:
    values = {"tenants": firms, "readers": READERS, "clients": CLIENTS, "days": list(WARNING_DAYS), "today": TODAY}
    with transaction() as tx:
        lift_limits(tx)
        tx.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in WORLD:
            tx.execute(text(statement), {name: value for name, value in values.items() if f":{name}" in statement})
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lift_limits(connection, whole_session=True)
        connection.execute(text("VACUUM ANALYZE"))
    with transaction() as tx:
        return [row.id for row in tx.execute(text("SELECT id FROM tenants"))]


def _work(job_type: str, tenants: list[UUID]) -> None:
    payload = {"local_date": TODAY.isoformat()}
    with transaction() as tx:
        enqueue(tx, [JobRequest(job_type, payload, tenant_id=tenant) for tenant in tenants])
    while event := feed.take("scheduled-email", PLANNER_BATCH):
        handle(event, Context(LONGEST_SECONDS), queue="scheduled-email")


def _send() -> None:
    for _ in range(MOST_ROUNDS):
        feed.make_due()
        events = 0
        while event := feed.take("email-bulk", MAIL_BATCH):
            events += 1
            handle(event, Context(LONGEST_SECONDS), queue="email-bulk")
        if not events:
            return
    raise DuecourseError(f"mails are still waiting after {MOST_ROUNDS} rounds")
