"""The provider's limits with several workers at once, and the lane of mail that cannot wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from functions.aws import ses
from functions.email.limits import UNLIMITED
from tests.mail import Post, new_user

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


@contextmanager
def workers(queues: Sequence[str], accepted: Path, limits: tuple[float, int]) -> Iterator[None]:
    """Workers in processes of their own, each with its connection, as Lambdas are."""
    command = [sys.executable, "-m", "tests.mail_process"]
    rest = [str(accepted), *map(str, limits)]
    running = [
        subprocess.Popen([*command, queue, *rest], cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.DEVNULL)
        for queue in queues
    ]
    try:
        yield
        assert [process.poll() for process in running] == [None] * len(running), "a worker has died"
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)


def lines(accepted: Path) -> list[tuple[float, UUID]]:
    if not accepted.exists():
        return []
    found = [line.split() for line in accepted.read_text().splitlines()]
    return sorted((float(at), UUID(job)) for at, job in found)


def wait_until(post: Post, condition: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not post.rows(f"SELECT {condition}")[0][0]:
        assert time.monotonic() < deadline, post.rows("SELECT type, state, error, count(*) FROM jobs GROUP BY 1, 2, 3")
        time.sleep(0.1)


def most(times: Sequence[float], window: float) -> int:
    return max(sum(start <= at < start + window for at in times) for start in times)


def readers(post: Post, count: int) -> list[str]:
    with post.observer.begin() as tx:
        return [str(new_user(tx, post.tenant_id, f"reader{n}@example.com")) for n in range(count)]


@pytest.mark.slow
def test_fourteen_a_second_and_two_hundred_a_day_with_four_workers(post: Post, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    users = readers(post, 260)
    routine = post.order(*[post.custom(recipient_id=user) for user in users])
    with workers(["email"] * 3 + ["email-critical"], accepted, (14, 200)):
        # 180 routine mails a day: a tenth of 200 is kept for what is critical.
        wait_until(post, "count(*) FILTER (WHERE state = 'completed') = 180 AND"
                         " count(*) FILTER (WHERE run_at > now() + interval '23 hours') = 80 FROM jobs")  # fmt: skip
        critical = post.order(*[post.reset(recipient_id=user) for user in users[:25]])
        wait_until(post, "count(*) FILTER (WHERE type = 'email.password_reset' AND state = 'completed') = 20 AND"
                         " count(*) FILTER (WHERE run_at > now() + interval '23 hours') = 85 FROM jobs")  # fmt: skip
        first_day = lines(accepted)
        assert len(first_day) == len({job for _, job in first_day}) == 200
        waiting = post.rows("SELECT error, attempts FROM jobs WHERE state = 'delayed' AND type = 'email.custom'")
        assert {tuple(row) for row in waiting} == {("provider limit: 12.6 a second and 180 a day", 0)}
        # The window opens.
        post.age(minutes=24 * 60 + 1)
        post.rows("UPDATE send_lanes SET waiting_until = NULL")
        post.rows("UPDATE send_counts SET local_date = local_date - 1")
        post.make_due()
        wait_until(post, "bool_and(state = 'completed') FROM jobs")
    sent = lines(accepted)
    assert {job for _, job in sent} == {*routine, *critical}
    assert len(sent) == 285
    slots = post.rows("SELECT lane, extract(epoch FROM at)::float8 AS at FROM send_slots")
    for lane, per_second, per_day in (("all", 14, 200), ("routine", 13, 180)):
        times = [row.at for row in slots if row.lane == lane]
        assert most(times, 1) <= per_second
        assert most(times, 86_400) <= per_day
    assert most([at for at, _ in sent], 10) < 140
    assert post.rows("SELECT job_id FROM job_attempts WHERE counted") == []


@pytest.mark.parametrize("per_second", [14, 1])
def test_a_password_reset_gets_the_next_slot_when_routine_mail_has_all_before_it(post: Post, per_second: int) -> None:
    post.provider.limits = ses.Quota(per_second, UNLIMITED)
    post.order(post.reset())
    post.work("email-critical")
    post.rows("INSERT INTO send_slots SELECT name, next_slot, clock_timestamp() + interval '1 s' FROM send_lanes")
    post.rows("UPDATE send_lanes SET next_slot = next_slot + 1")
    [reset] = post.order(post.reset())
    post.work("email-critical")
    assert (post.job(reset).state, post.job(reset).runs) == ("completed", 1)


@pytest.mark.slow
def test_a_password_reset_passes_ten_thousand_routine_mails(post: Post, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    users = readers(post, 500)
    post.rows("UPDATE tenants SET mail_per_day = 100000")
    with post.observer.begin() as tx:
        tx.execute(
            text(
                "SELECT count(*) FROM enqueue_jobs((SELECT jsonb_agg(jsonb_build_object('type', 'email.custom',"
                " 'tenant_id', CAST(:tenant AS text), 'payload', jsonb_build_object('recipient_kind', 'user',"
                " 'recipient_id', u.id, 'subject', 'News', 'body', 'News')))"
                " FROM users u, generate_series(1, 20) WHERE u.email LIKE 'reader%'))"
            ),
            {"tenant": str(post.tenant_id)},
        )
    post.order(post.reset(recipient_id=users[1]))
    with workers(["email", "email", "email-critical"], accepted, (14, -1)):
        # All three are at work: the critical one may have been the last to start.
        wait_until(post, "count(*) >= 20 AND count(*) FILTER (WHERE critical) = 1 FROM email_messages"
                         " WHERE state = 'sent'")  # fmt: skip
        started = time.time()
        [reset] = post.order(post.reset(recipient_id=users[0]))
        wait_until(post, "count(*) = 2 FROM jobs WHERE type = 'email.password_reset' AND state = 'completed'")
        [(sent_at, _)] = [line for line in lines(accepted) if line[1] == reset]
        assert sent_at - started < 2
        [(waiting,)] = post.rows("SELECT count(*) FROM jobs WHERE state <> 'completed'")
        assert waiting > 9_500
    times = [at for at, _ in lines(accepted)]
    assert most(times, 10) < 140
