"""Migration 0013 on a ledger that was lived in: rows beyond the limits are mended, and none blocks its neighbours."""

from __future__ import annotations

from datetime import timedelta

from alembic import command
from sqlalchemy import Engine, text

from functions.core.job import JobRequest
from functions.db.migrate import _alembic_config, migrate
from functions.pipeline.enqueue import enqueue
from tests.harness import job, order, probe, states

STRANGE = {
    "never": "run_at = 'infinity', outbox_at = 'infinity'",
    "long": "correlation_id = repeat('c', 1100000)",
    "endless": "deadline_at = 'infinity'",
    "over": "deadline_at = '-infinity'",
    "scalar": """payload = '"text"'""",
    "list": "payload = '[1, 2]'",
}


def probe_keyed() -> JobRequest:
    return JobRequest("upkeep.probe", {}, dedup_key="k")


def test_rows_beyond_the_limits_are_mended_and_others_left(database: Engine) -> None:
    with database.begin() as tx:
        command.downgrade(_alembic_config(tx), "0012")
        plain, *ids = (tx.execute(text("SELECT enqueue_job('upkeep.probe', '{}')")).scalar_one() for _ in range(7))
        for job_id, change in zip(ids, STRANGE.values(), strict=True):
            tx.execute(text(f"UPDATE jobs SET {change.replace(':', chr(92) + ':')} WHERE id = :id"), {"id": job_id})
        before = job(tx, plain)
        migrate(tx)
    with database.begin() as tx:
        never, long, endless, over, scalar, several = (job(tx, job_id) for job_id in ids)
        moment = tx.execute(text("SELECT now()")).scalar_one()
        assert never.run_at == never.outbox_at > moment + timedelta(days=3650)
        assert long.correlation_id == "c" * 256
        assert endless.deadline_at is None
        assert over.deadline_at < moment
        assert (scalar.payload, several.payload) == ({"payload": "text"}, {"payload": [1, 2]})
        assert job(tx, plain) == before
        tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now(), outbox_at = NULL"))


def test_a_ledger_with_contested_keys_goes_down_and_loses_no_job(database: Engine, observer: Engine) -> None:
    with observer.connect() as holder:
        enqueue(holder, [probe_keyed()])
        with observer.begin() as tx:
            order(tx, probe_keyed())
        holder.rollback()
    with database.begin() as tx:
        assert states(tx) == {"blocked": 1}
        command.downgrade(_alembic_config(tx), "0012")
        assert states(tx) == {"waiting": 1}
        tx.execute(text("SELECT enqueue_job('upkeep.probe', '{}', group_key => 'g')"))
        migrate(tx)
        order(tx, probe())
        assert states(tx) == {"waiting": 3}
