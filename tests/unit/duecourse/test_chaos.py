"""The chaos run itself: a seed is a plan, every kill point exists, nobody dies in the calm, the page is filled in."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from duecourse.chaos import saboteur
from duecourse.chaos.plan import Fault, make_plan
from duecourse.chaos.report import write_page
from duecourse.chaos.saboteur import DOUBT, POINTS, Point, Saboteur, Spec
from duecourse.chaos.verdict import MUST_BE_ZERO
from functions.core.catalog import CATALOG


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    log, calm, switches = (str(tmp_path / name) for name in ("log", "calm", "switches"))
    Path(switches).mkdir()
    return Spec(
        seed=1, log=log, calm=calm, kill_rate=1.0, life=5, stall_seconds=0.0, skew_seconds=300.0, switches=switches
    )


def test_a_seed_is_a_plan() -> None:
    assert make_plan(7, 1_000, rounds=2) == make_plan(7, 1_000, rounds=2)
    assert make_plan(7, 1_000, rounds=2) != make_plan(8, 1_000, rounds=2)


@pytest.mark.parametrize("rounds", [1, 4])
def test_every_fault_comes_in_every_round_and_before_the_last_order(rounds: int) -> None:
    plan = make_plan(1, 1_000, rounds=rounds)
    assert Counter(timed.fault for timed in plan.faults) == dict.fromkeys(Fault, rounds)
    times = [timed.at for timed in plan.faults]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 1


def test_every_kill_point_clock_and_tampering_is_in_the_code() -> None:
    """In a process of its own, as it changes the modules that it finds."""
    code = """
import importlib, json, sys
from duecourse.chaos import saboteur
armed = saboteur.install(saboteur.Spec(1, "/dev/null", "/", 0.0, 5, 0.0, 0.0, "/nowhere"))
for name in sorted(saboteur.changed_modules()):
    importlib.import_module(name)
for tampering in saboteur.TAMPERINGS:
    module, _, name = tampering.by.partition(":")
    getattr(importlib.import_module(module), name)
from functions.email import eligibility, worker as mails
from functions.pipeline import worker
from functions.db import sessions
assert sessions.SETTINGS["lock_timeout"] == "1300ms"
assert sessions.SETTINGS["client_encoding"] == "UTF8"
print(worker.claim.__wrapped__.__module__, eligibility.DOUBT.total_seconds(), mails.handle is worker.handle)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["functions.pipeline.ledger", str(DOUBT.total_seconds()), "True"]


@pytest.mark.parametrize("name", sorted(saboteur.CLOCKS))
def test_no_clock_was_read_before_it_is_changed(name: str) -> None:
    """What a module makes of it while it is imported would keep the true length."""
    tree = ast.parse(Path(importlib.import_module(name).__file__ or "").read_text())
    early = [node for statement in tree.body for node in _at_import(statement)]
    read = {node.id for node in early if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert not read & saboteur.CLOCKS[name].keys()


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated while the module is imported: not the bodies of functions, but their defaults."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        evaluated: list[ast.AST] = [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]
    elif isinstance(node, ast.Lambda):
        evaluated = [*node.args.defaults]
    else:
        yield node
        evaluated = [*ast.iter_child_nodes(node)]
    for child in evaluated:
        yield from _at_import(child)


def test_a_point_that_is_gone_is_an_error(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saboteur, "POINTS", (Point("gone", "nowhere", "no_such_function"),))
    with pytest.raises(AttributeError):
        saboteur.change(ModuleType("nowhere"), Saboteur(spec))


def test_a_process_dies_at_a_point_and_says_so_first(spec: Spec, tmp_path: Path) -> None:
    spec.write(tmp_path / "spec.json")
    code = "from duecourse.chaos import saboteur; s = saboteur.install(); s.pass_by(saboteur.POINTS[0]); print('alive')"
    command = [sys.executable, "-c", code]
    environment = {saboteur.SPEC_VARIABLE: str(tmp_path / "spec.json")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "")
    assert Path(spec.log).read_text() == f"function\tkilled {POINTS[0].name}\n"


def test_nobody_dies_in_the_calm(spec: Spec) -> None:
    Path(spec.calm).touch()
    Saboteur(spec).pass_by(POINTS[0])


def test_a_life_of_ours_ends_at_its_fate_and_nowhere_else(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.kill", lambda *_: None)  # it goes on, and passes the same point again
    fate, other = POINTS[0], POINTS[1]
    one = Saboteur(spec)
    one.begin("worker", "worker-0", 1, fate=saboteur.Fate(fate))
    for _ in range(spec.life):
        one.pass_by(other)
        one.pass_by(fate)
    assert set(Path(spec.log).read_text().splitlines()) == {f"worker\tkilled {fate.name}"}


def test_a_worker_held_up_goes_on_and_dies_another_time(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.kill", lambda *_: None)
    one = Saboteur(spec)
    one.begin("worker", "worker-0", 1, fate=saboteur.Fate(POINTS[1], stalls=True))
    for _ in range(2 * spec.life):
        one.pass_by(POINTS[1])
    first, second, *_ = Path(spec.log).read_text().splitlines()
    assert first == f"worker\theld up {POINTS[1].name}"
    assert second == f"worker\tkilled {POINTS[1].name}"


def test_every_leased_point_has_both_fates() -> None:
    fates = {role: saboteur.fates_of(role) for role in ("worker", "relay", "sweep")}
    assert {fate.point for some in fates.values() for fate in some if not fate.stalls} == set(POINTS)
    assert [fate.point for fate in fates["worker"] if fate.stalls] == [point for point in POINTS if point.leased]


def test_clocks_keep_their_order(spec: Spec) -> None:
    """What a mail in doubt waits for must be able to come before the wait ends, twice delayed by a worker's death."""
    roles = importlib.import_module("duecourse.chaos.roles")
    assert saboteur.DOUBT.total_seconds() > 2 * (roles.LEASE_SECONDS + roles.VISIBILITY_SECONDS)
    assert roles.VISIBILITY_SECONDS >= roles.LEASE_SECONDS
    assert all(queue.timeout_seconds > roles.TIMEOUT_SECONDS for queue in CATALOG.queues.values())


def test_skew_is_of_the_process(spec: Spec) -> None:
    one, other = Saboteur(spec), Saboteur(spec)
    one.begin("worker", "worker-0", 1)
    other.begin("worker", "worker-1", 1)
    assert one.skew != other.skew
    assert max(abs(one.skew), abs(other.skew)) <= spec.skew_seconds
    assert Saboteur(replace(spec, skew_seconds=0.0)).skew == 0


def test_the_page_takes_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = "".join(f"<!-- measured: {name} -->\nearlier\n<!-- end -->\n" for name in ("runs", "faults", "peers"))
    page.write_text(f"# Before\n{places}after\n")
    counts = dict.fromkeys(MUST_BE_ZERO, 0)
    run = {
        "seed": 5, "enqueued": 1234, "mails": 9, "doubled_critical": 1, "runs_lost": 7, "crashed": 0,
        "conservation": True, "faults": {"killed at random": 3, "poison flood": 1},
        "seconds": {"load": 10.4, "drain": 5.0, "drain with mails": 60.0}, **counts,
    }  # fmt: skip
    peer = {"jobs": 100, "kills": 5, "lost": 1, "failed": 2, "doubled_effects": 3, "stuck": 0, "seconds": 1.0}
    write_page(page, [run], {"versions": {"bullmq": "6"}, "BullMQ": peer, "Celery": {"missing": "no network"}})
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("after\n")
    assert "earlier" not in text
    assert "| jobs ordered | 1,234 |" in text
    assert "| BullMQ 6, workers killed | 100 | 5 | 3 | 3 | 0 |" in text
    assert "not measured: no network" in text
    assert "| Duecourse, all faults | 1,234 | 3 | 0 | 0 | 0 |" in text
