"""What `duecourse chaos` runs, and where it writes what came of it.

The page's prose is written by hand. Only what stands between `<!-- measured: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from duecourse.chaos import rivals
from duecourse.chaos.plan import make_plan
from duecourse.chaos.run import Outcome, run
from duecourse.console import err, step
from duecourse.local.state import REPOSITORY, Home, default_home

SMALL_JOBS = 3_000
JOBS_PER_ROUND = 25_000
"""Every fault comes once in so many jobs, and once at least."""
SEEDS = (1, 2, 3)
DOCS = REPOSITORY / "docs"


def small(seed: int) -> bool:
    """One short run; writes chaos.json into the local state's directory. Returns whether it is as it should be."""
    home = default_home()
    home.directory.mkdir(parents=True, exist_ok=True)
    outcome = _one(seed, SMALL_JOBS)
    (home.directory / "chaos.json").write_text(json.dumps(outcome.as_dict(), indent=2) + "\n")
    return outcome.ok


def full(seeds: Sequence[int], jobs: int) -> bool:
    """Long runs, one per seed, then the peers; writes docs/results and the tables of docs/reliability.md."""
    results = DOCS / "results"
    results.mkdir(exist_ok=True)
    found = []
    for seed in seeds:
        outcome = _one(seed, jobs)
        found.append(outcome.as_dict() | {"machine": _machine(), "at": f"{datetime.now(UTC):%Y-%m-%d}"})
        (results / f"chaos-{seed}.json").write_text(json.dumps(found[-1], indent=2) + "\n")
    with step("BullMQ and Celery, their workers killed"):
        peers = rivals.run(seeds[0])
    (results / "chaos-rivals.json").write_text(json.dumps(peers, indent=2) + "\n")
    write_page(DOCS / "reliability.md", found, peers)
    return all(run["ok"] for run in found)


def write_page(page: Path, runs: Sequence[Mapping[str, Any]], peers: Mapping[str, Any]) -> None:
    """Put the figures into the page. Raises `ValueError` when it has no place for them."""
    text = page.read_text()
    for name, body in {"runs": _runs(runs), "faults": _faults(runs), "peers": _peers(runs, peers)}.items():
        pattern = re.compile(rf"<!-- measured: {name} -->\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{page} has no place for {name}")
        block = f"<!-- measured: {name} -->\n{body}\n<!-- end -->"
        text = pattern.sub(block.replace("\\", "\\\\"), text)
    page.write_text(text)


def _one(seed: int, jobs: int) -> Outcome:
    rounds = max(1, jobs // JOBS_PER_ROUND)
    outcome = run(make_plan(seed, jobs, rounds=rounds), Home(default_home().directory / "chaos"), step=step)
    for example in outcome.verdict.examples:
        err().print(f"! {example}", markup=False)
    for exception, times in outcome.exceptions.items():
        err().print(f"! {times} times: {exception}", markup=False)
    for fault, why in outcome.skipped.items():
        err().print(f"! not done: {fault}: {why}", markup=False)
    return outcome


def _machine() -> str:
    return (
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()},"
        f" Python {platform.python_version()}"
    )


RUN_ROWS = {
    "jobs ordered": "enqueued",
    "lost": "lost",
    "database effects doubled": "doubled_effects",
    "routine mails doubled": "doubled_mails",
    "stuck": "stuck",
    "in the ledger though never ordered": "unordered",
    "attempts used up by a death of the worker": "charged",
    "mails of a group out of order": "out_of_order",
    "failures that were not the job's own, or not told": "misjudged",
    "mails taken by the provider": "mails",
    "password resets doubled, as meant": "doubled_critical",
    "runs that died with their worker": "runs_lost",
    "jobs under which three workers in a row died; redriven": "crashed",
}


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = {name: [f"{run[key]:,}" for run in runs] for name, key in RUN_ROWS.items()}
    rows["conservation holds"] = ["yes" if run["conservation"] else "NO" for run in runs]
    rows["faults"] = [f"{_fault_count(run):,}" for run in runs]
    rows["seconds under faults"] = [f"{run['seconds']['load']:,.0f}" for run in runs]
    rows["seconds of calm until the last job ended"] = [f"{run['seconds']['drain']:,.0f}" for run in runs]
    rows["the same with mails in doubt"] = [f"{run['seconds']['drain with mails']:,.0f}" for run in runs]
    return _table(["", *(f"seed {run['seed']}" for run in runs)], rows)


def _faults(runs: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({name for run in runs for name in run["faults"]})
    rows = {name: [f"{run['faults'].get(name, 0):,}" for run in runs] for name in names}
    return _table(["", *(f"seed {run['seed']}" for run in runs)], rows)


def _peers(runs: Sequence[Mapping[str, Any]], peers: Mapping[str, Any]) -> str:
    rows = {
        "Duecourse, all faults": [
            f"{sum(run['enqueued'] for run in runs):,}",
            f"{sum(_kills(run) for run in runs):,}",
            *(f"{sum(run[key] for run in runs):,}" for key in ("lost", "doubled_effects", "stuck")),
        ]
    }
    for name, version in (("BullMQ", "bullmq"), ("Celery", "celery")):
        peer = peers[name]
        title = f"{name} {peers['versions'].get(version, '')}, workers killed"
        if "missing" in peer:
            rows[title] = [f"not measured: {peer['missing']}", "", "", "", ""]
        else:
            counted = {**peer, "lost": peer["lost"] + peer["failed"]}
            rows[title] = [f"{counted[key]:,}" for key in ("jobs", "kills", "lost", "doubled_effects", "stuck")]
    return _table(["", "jobs", "kills", "lost or given up", "effects doubled", "stuck"], rows)


def _fault_count(run: Mapping[str, Any]) -> int:
    return sum(run["faults"].values())


def _kills(run: Mapping[str, Any]) -> int:
    return sum(count for name, count in run["faults"].items() if name.startswith("killed"))


def _table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)
