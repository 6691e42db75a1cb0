"""`duecourse bench`: runs the sections one after another, keeps what each found, and says which ratios hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from duecourse.bench import peers, report, servers
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Result, machine
from duecourse.console import err, step
from duecourse.local.errors import LocalError
from duecourse.local.state import default_home

SECTIONS = {
    "enqueue": "Ordering jobs",
    "overhead": "Claim and settle",
    "refresh": "The compliance refresh",
    "handler": "The worker's handler",
    "notices": "Notices and mails",
    "cold": "Cold starts",
    "relay": "The relay beside a full queue",
    "scale": "A ledger of finished jobs",
    "cost": "Cost",
}
SMALL_ATTEMPTS = 2
"""A small run has few rounds: one that looks like a regression is repeated. Noise passes, a cost of ours stays."""


def run(*, small: bool, only: Sequence[str], resume: bool) -> bool:
    """Measure, write the results, and return whether every target holds; of a small run, whether none regressed.

    Full results go to docs/results/ and docs/performance.md as well. `resume` skips what is measured already.
    """
    if unknown := sorted(set(only) - set(SECTIONS)):
        raise LocalError(f"there is no section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    home = default_home().directory
    kept = home / "bench/results" / ("small" if small else "full")
    kept.mkdir(parents=True, exist_ok=True)
    with step("Installing what we are compared with") as note:
        found = peers.install()
        note(", ".join(f"{name} {version}" for name, version in found.versions.items()))
        for name, why in found.missing.items():
            note(f"[red]{name} is missing[/]: {why}")
    wanted = [name for name in SECTIONS if (name in only or not only) and not (resume and _path(kept, name).exists())]
    if wanted:
        with servers.running_postgres(home / "bench/postgres") as postgres:
            for name in wanted:
                _measure(Bench(small, home, found, postgres), name, kept)
    results = {name: json.loads(_path(kept, name).read_text()) for name in SECTIONS if _path(kept, name).exists()}
    summary = {"small": small, "machine": machine(), "versions": found.versions, **_together(results)}
    (home / "bench.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not small:
        report.write(summary | {"sections": results}, SECTIONS)
    held = _say(summary["ratios"], {**summary["missing"], **found.missing})
    return not any(ratio["regressed"] for ratio in summary["ratios"].values()) if small else held


def _measure(bench: Bench, name: str, kept: Path) -> None:
    with step(SECTIONS[name]) as note:
        attempts = SMALL_ATTEMPTS if bench.small else 1
        attempt = 0
        while attempt < attempts:
            attempt += 1
            started, surroundings = time.monotonic(), machine()
            result: Result = import_module(f"duecourse.bench.{name}").run(bench)
            if not any(ratio.regressed for ratio in result.ratios.values()):
                break
        record = asdict(result) | {
            "ratios": {
                key: asdict(ratio) | {"ok": ratio.ok, "regressed": ratio.regressed}
                for key, ratio in result.ratios.items()
            },
            "seconds": round(time.monotonic() - started, 1),
            "attempts": attempt,
            "machine": surroundings,
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        _path(kept, name).write_text(json.dumps(record, indent=2) + "\n")
        note(", ".join(_sentence(key, ratio) for key, ratio in record["ratios"].items() if ratio["target"] is not None))


def _path(kept: Path, name: str) -> Path:
    return kept / f"{name}.json"


def _together(results: Mapping[str, Any]) -> dict[str, Any]:
    ratios = {key: ratio for result in results.values() for key, ratio in result["ratios"].items()}
    missing = {key: why for result in results.values() for key, why in result["missing"].items()}
    return {"ratios": ratios, "missing": missing}


def _sentence(name: str, ratio: Mapping[str, Any]) -> str:
    value = "not measured" if ratio["value"] is None else f"{ratio['value']:.2f}"
    return f"{name} {value} ({ratio['sense']} {ratio['target']})"


def _say(ratios: Mapping[str, Any], missing: Mapping[str, str]) -> bool:
    for name, why in missing.items():
        err().print(f"! {name} was not measured: {why}", markup=False)
    failed = {name: ratio for name, ratio in ratios.items() if not ratio["ok"]}
    for name, ratio in failed.items():
        verdict = "a regression" if ratio["regressed"] else "missed"
        err().print(f"✗ {_sentence(name, ratio)}, against {ratio['against']}: {verdict}", markup=False)
    held = sum(ratio["target"] is not None and ratio["ok"] for ratio in ratios.values())
    err().print(f"{held} of {held + len(failed)} targets hold", markup=False)
    return not failed
