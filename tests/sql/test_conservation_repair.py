"""docs/runbooks/conservation.md: rows deleted by hand are found and named; once recorded, the sum is right again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from functions.core.errors import DuecourseError
from functions.pipeline.conservation import conservation
from functions.pipeline.sweep import sweep
from tests.contract.documents import blocks
from tests.harness import Queues, order, probe

DIFFERENCE, RECORD = blocks(Path("docs/runbooks/conservation.md"), "sql")


def test_a_difference_is_found_named_and_recorded(queues: Queues, observer: Engine) -> None:
    with observer.begin() as tx:
        order(tx, *[probe() for _ in range(5)])
    assert sweep(datetime.now(UTC))["conservation"] is True
    with observer.begin() as tx:
        tx.execute(text("DELETE FROM jobs WHERE id IN (SELECT id FROM jobs LIMIT 3)"))
    assert sweep(datetime.now(UTC))["conservation"] is False
    with observer.begin() as tx:
        [row] = tx.execute(text(DIFFERENCE))
        assert tuple(row) == ("upkeep", "upkeep.probe", "waiting", 5, 2)
        tx.execute(text(RECORD))
        assert list(tx.execute(text(DIFFERENCE))) == []
        assert conservation(tx).holds
    assert sweep(datetime.now(UTC))["conservation"] is True


def test_a_task_that_fails_does_not_keep_the_sweep_from_beating(queues: Queues, observer: Engine) -> None:
    with observer.begin() as tx:
        tx.execute(text("ALTER TABLE job_keys RENAME TO elsewhere"))
    with pytest.raises(DuecourseError, match="keys_expired"):
        sweep(datetime.now(UTC))
    with observer.begin() as tx:
        assert tx.execute(text("SELECT name FROM heartbeats")).scalars().all() == ["sweep"]
        tx.execute(text("ALTER TABLE elsewhere RENAME TO job_keys"))
