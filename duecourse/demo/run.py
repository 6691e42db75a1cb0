"""The demo from start to end, with what a person sees of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from duecourse.console import err, out, step
from duecourse.local.errors import LocalError

if TYPE_CHECKING:
    from duecourse.demo.play import Game
    from duecourse.demo.result import Result
    from duecourse.local.stack import Stack

PLAIN_EVERY_TICKS = 16
"""Without a terminal: a line every four simulated hours."""


def run() -> None:
    """Start the stack, play the day, show and write what came of it. Raises `LocalError` when something went wrong."""
    from duecourse.local import stack
    from duecourse.local.state import default_home

    started = time.monotonic()
    home = default_home()
    running = stack.up(home, step=step)
    os.environ |= _environment(running)
    result = _play(running, started)
    path = home.directory / "demo.json"
    result.write(path)
    out().print(result.render())
    _point_out(path.as_posix())
    if problems := result.problems():
        raise LocalError(f"the demo found: {'; '.join(problems)}")


def _play(running: Stack, started: float) -> Result:
    from duecourse.demo import ledger, play
    from duecourse.demo.result import Result
    from functions.pipeline.conservation import conservation

    began = datetime.now(UTC)
    game = play.Game(running, running.engine(), play.simulated_day(began))
    clients = _seed(game)
    play.start_relay(game)
    _show_day(game)
    with step("Waiting for the last jobs") as note:
        scheduled, mails = play.await_quiet(game)
        note(f"{scheduled} scheduled jobs completed, {mails} mails sent")
    dead, rejected, redriven = _show_dead_letters(game)
    with step("Sweeping"):
        play.sweep(game)
    result = Result(
        zones=game.look(lambda tx: ledger.zones(tx, play.REFRESH)),
        clients=clients,
        runs=game.look(lambda tx: ledger.by_name(tx, ledger.RUNS)),
        notices=game.look(ledger.notices),
        mails=game.look(lambda tx: ledger.by_name(tx, ledger.MAILS)),
        dead=dead,
        rejected=rejected,
        redriven=redriven,
        scores=game.look(ledger.scores),
        waits=game.look(ledger.waits),
        statements_per_batch=play.statements_per_batch(game, began),
        seconds=time.monotonic() - started,
        conservation=game.look(conservation),
        not_once=len(game.look(lambda tx: tx.execute(ledger.NOT_ONCE, {"schedule": play.REFRESH}).all())),
    )
    game.engine.dispose()
    return result


def _seed(game: Game) -> int:
    from duecourse.demo import ledger
    from duecourse.local import seed

    with step("Seeding") as note, game.engine.begin() as tx:
        _empty_queues(game)
        seed.reset(tx)
        counts = seed.seed(tx, day=game.day, created_at=game.midnight)
        tx.execute(ledger.ENABLE_SCHEDULES, {"since": game.midnight})
        note(str(counts))
    return counts.clients


def _empty_queues(game: Game) -> None:
    """What an earlier demo left, such as its poison message."""
    client = game.stack.client("sqs")
    for url in client.list_queues(QueueNamePrefix=game.stack.name)["QueueUrls"]:
        client.purge_queue(QueueUrl=url)


def _show_day(game: Game) -> None:
    from duecourse.demo import play

    with _day_progress() as show:
        for number, (at, planned, completed, mails) in enumerate(play.ticks(game), start=1):
            show(number, f"{at:%H:%M} UTC", f"{planned} planned, {completed} completed, {mails} mails")


@contextmanager
def _day_progress() -> Iterator[Callable[[int, str, str], object]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from duecourse.demo.play import TICKS

    if not err().is_terminal:
        yield (
            lambda number, at, what: (
                err().print(f"  {at}: {what}") if number % PLAIN_EVERY_TICKS == 0 or number == TICKS else None
            )
        )
        return
    columns = (TextColumn("Playing a day"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err()) as bar:
        task = bar.add_task("", total=TICKS)
        yield lambda number, at, what: bar.update(task, completed=number, description=f"{at} · {what}")


def _show_dead_letters(game: Game) -> tuple[int, int, int]:
    from duecourse.demo import play

    with step("A poison message, and a job that always fails"):
        play.send_poison(game)
        job_id = play.order_failing_job(game)
        job, rejected = play.await_dead_letters(game, job_id)
    for row in rejected:
        err().print(f"  rejected after {row.receives} receives: {row.reason}", markup=False)
    err().print(f"  dead after {job.attempts} attempts: {job.error_class}: {job.error}", markup=False)
    with step("Redriving the dead job") as note:
        redriven = play.redrive_dead(game)
        done = play.await_completed(game, job_id)
        note(f"completed in its run {done.runs}; the poison message stays in the dead-letter queue")
    return int(job.state == "dead"), len(rejected), redriven


def _environment(running: Stack) -> dict[str, str]:
    """What the pipeline's own code reads, so that the demo can redrive as an operator would."""
    from duecourse.local import aws

    return {
        "AWS_ENDPOINT_URL": running.endpoint,
        "AWS_ACCESS_KEY_ID": aws.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": aws.ACCESS_KEY,
        "AWS_DEFAULT_REGION": aws.REGION,
        "DATABASE_URL": running.database_url,
        "QUEUE_URL_PREFIX": running.outputs["QueueUrlPrefix"],
    }


def _point_out(path: str) -> None:
    program = _program()
    hints = {
        "status": "what runs, and how full the queues are",
        "mailbox --open": "the mails, in a browser",
        "logs compliance-refresh-worker": "what the worker said of each job",
        "db shell -c 'TABLE job_attempts'": "each run that did not complete",
        "invoke daily-compliance-refresh": "one function, with its sample event",
        "down": "stop everything",
    }
    width = max(map(len, hints))
    lines = [f"  {program} {command:<{width}}  {what}" for command, what in hints.items()]
    out().print("\nWhere to look next", *lines, f"The numbers above are in {path}.", sep="\n", markup=False)


def _program() -> str:
    """How the reader's shell finds this program: `uv run` has it on the PATH, the shell may not."""
    from duecourse.local.state import REPOSITORY

    own = REPOSITORY / ".venv" / "bin" / "duecourse"
    return ".venv/bin/duecourse" if Path(sys.prefix) == own.parents[1] else "duecourse"
