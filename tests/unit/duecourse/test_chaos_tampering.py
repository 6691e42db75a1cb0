"""What the chaos run does to functions while a fault lasts: an SQS that refuses, and the workers of two releases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from duecourse.chaos import rollout, slow_sqs
from duecourse.chaos.saboteur import Saboteur, Spec
from functions.core.catalog import CATALOG


@pytest.fixture
def saboteur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saboteur:
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "switches").mkdir()
    paths = {name: str(tmp_path / name) for name in ("log", "calm", "switches")}
    made = Saboteur(Spec(seed=1, kill_rate=0.0, life=5, stall_seconds=0.0, skew_seconds=0.0, **paths))
    made.begin("relay")
    return made


def _switch(saboteur: Saboteur, name: str) -> Path:
    switch = Path(saboteur.spec.switches) / name
    switch.touch()
    return switch


class _Queue:
    """Takes what is sent, but for what it refuses itself."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def send(self, url: str, messages: Sequence[int]) -> list[str | None]:
        assert url == "queue"
        assert messages, "SQS refuses an empty batch"
        self.taken += [message for message in messages if message % 7]
        return [None if message % 7 else "refused by itself" for message in messages]


def test_what_a_slow_sqs_refuses_was_not_sent_and_what_it_took_is_said_so(saboteur: Saboteur) -> None:
    _switch(saboteur, slow_sqs.SWITCH)
    refused_calls = refused_entries = 0

    @settings(max_examples=200)
    @given(st.lists(st.integers(0, 99), min_size=1, max_size=10))
    def check(messages: list[int]) -> None:
        nonlocal refused_calls, refused_entries
        queue = _Queue()
        try:
            answers = slow_sqs.send_batch(saboteur, queue.send, "queue", messages)
        except ClientError:
            refused_calls += 1
            assert queue.taken == []
            return
        assert queue.taken == [message for message, why in zip(messages, answers, strict=True) if why is None]
        refused_entries += answers.count(slow_sqs.REFUSAL)
        assert all(answer == "refused by itself" for answer in answers if answer not in {None, slow_sqs.REFUSAL})

    check()
    assert refused_calls
    assert refused_entries


def test_a_well_sqs_and_a_calm_run_refuse_nothing(saboteur: Saboteur) -> None:
    queue = _Queue()
    assert slow_sqs.send_batch(saboteur, queue.send, "queue", [1, 2, 3]) == [None] * 3
    _switch(saboteur, slow_sqs.SWITCH)
    Path(saboteur.spec.calm).touch()
    for _ in range(100):
        assert slow_sqs.send_batch(saboteur, queue.send, "queue", [1, 2, 3]) == [None] * 3


@pytest.mark.parametrize("ahead", [True, False])
def test_two_releases_side_by_side(saboteur: Saboteur, *, ahead: bool) -> None:
    def queue_of_the_type() -> str | None:
        def serve(event: Any, context: Any, *, queue: str, catalog: Any = CATALOG) -> Any:
            assert (event, context, queue) == ("event", "context", "upkeep")
            assert catalog.queues == CATALOG.queues
            assert catalog.job_types.keys() | {rollout.JOB_TYPE} == CATALOG.job_types.keys()
            row = catalog.job_types.get(rollout.JOB_TYPE)
            return row and row.queue

        found: str | None = rollout.handle(saboteur, serve, "event", "context", queue="upkeep")
        return found

    saboteur.ahead = ahead
    assert queue_of_the_type() == "upkeep"
    added = _switch(saboteur, rollout.ADDED)
    assert queue_of_the_type() == ("upkeep" if ahead else None)
    added.unlink()
    _switch(saboteur, rollout.MOVED)
    assert queue_of_the_type() == (rollout.OTHER_QUEUE if ahead else "upkeep")


def test_a_run_has_processes_of_both_releases(saboteur: Saboteur) -> None:
    found = set()
    for life in range(50):
        saboteur.begin("worker", "worker-0", life)
        found.add(saboteur.ahead)
    assert found == {True, False}
