"""Puts faults into a process from outside: kill points around named functions, short clocks, a wrong wall clock.

The code under test has no hooks. Modules are changed as they are imported, so that the same works in the processes of a
run and in the deployed functions, whose Python is started with a `sitecustomize` that calls `install`. Standard library
only: importing anything of `functions` here would keep a function from its own deployed code.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTION = "function"
SPEC_VARIABLE = "DUECOURSE_CHAOS"
"""Names the file with the `Spec`."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What every process of a run has to know."""

    seed: int
    log: str
    """File that gets a line for each fault, before it happens."""
    calm: str
    """While this file exists, nothing is killed, delayed or doubled any more."""
    kill_rate: float
    """Probability that a deployed function dies at a point of share 1, for each time it is passed."""
    life: int
    """A process of ours meets its fate at the latest after passing its point so often, at a share of 1."""
    stall_seconds: float
    """How long a worker is held up: beyond its lease, and until another has taken over."""
    skew_seconds: float
    """Each process's wall clock is wrong by up to this, either way."""
    switches: str
    """Directory of the faults that last a while: each lasts as long as a file of its name is there."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Spec:
        return cls(**json.loads(Path(path).read_text()))


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the flow where a process may die: just before or just after a function runs."""

    name: str
    module: str
    function: str
    """Dotted, for a method."""
    after: bool = False
    share: float = 1.0
    """Of the kill rate: what runs once per job, not once per batch, gets less; what runs seldom, more."""
    role: str = "worker"
    """Which processes come by here."""
    leased: bool = False
    """Between claim and settle: a worker that is held up here beyond its lease goes on when another has taken over."""


POINTS = (
    Point("before claim", "functions.pipeline.worker", "claim"),
    Point("after claim", "functions.pipeline.report", "started", leased=True),
    Point("in perform", "functions.upkeep.probe", "perform", share=0.05, leased=True),
    Point("after the effect", "functions.upkeep.probe", "perform", after=True, share=0.05, leased=True),
    Point("in perform, set-based", "functions.compliance.refresh", "perform", share=10, leased=True),
    Point("after the effect, set-based", "functions.compliance.refresh", "perform", after=True, share=10, leased=True),
    Point("mail intended, not sent", "functions.aws.ses", "send", share=0.3, leased=True),
    Point("mail sent, not recorded", "functions.aws.ses", "send", after=True, share=0.3, leased=True),
    Point("before settle", "functions.pipeline.settlement", "settle", leased=True),
    Point("after settle", "functions.pipeline.inbox", "Reply.send"),
    Point("answered, not deleted", "functions.pipeline.inbox", "Reply.send", after=True),
    Point("relay before send", "functions.aws.sqs", "send_batch", share=0.3, role="relay"),
    Point("relay between send and mark", "functions.aws.sqs", "send_batch", after=True, share=0.3, role="relay"),
    Point("sweep before it commits", "functions.aws.sqs", "depth", after=True, share=0.5, role="sweep"),
)


@dataclass(frozen=True, slots=True)
class Tampering:
    """A function of which something else is done while a fault lasts, or where a job's payload asks for it."""

    module: str
    function: str
    by: str
    """Dotted string of `instead(saboteur, function, *args, **options)`. Imported when it is first called."""


TAMPERINGS = (
    Tampering("functions.aws.sqs", "send_batch", "duecourse.chaos.slow_sqs:send_batch"),
    Tampering("functions.pipeline.worker", "handle", "duecourse.chaos.rollout:handle"),
    Tampering("functions.upkeep.probe", "perform", "duecourse.chaos.misbehave:perform"),
)

DOUBT = timedelta(seconds=120)
"""Instead of half an hour: eleven leases instead of thirty. An event comes late by every outage and every worker that
dies with it, and with 60 s a busy machine saw 21 of 11,102 mails doubled that way."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a process of ours comes to."""

    point: Point
    stalls: bool = False
    """Held up, not killed."""


def fates_of(role: str) -> list[Fate]:
    """Every end that a role can come to."""
    points = [point for point in POINTS if point.role == role]
    return [Fate(point) for point in points] + [Fate(point, stalls=True) for point in points if point.leased]


# In a run of minutes no one can wait for half an hour. Every wait keeps its order of size relative to the others. Of a
# mapping only the entries named change.
CLOCKS: Mapping[str, Mapping[str, object]] = {
    "functions.pipeline.batch": {"OUTAGE_FIRST_SECONDS": 1, "OUTAGE_LONGEST_SECONDS": 8},
    "functions.pipeline.admit": {"TWIN_SECONDS": 2},
    "functions.pipeline.perform": {"UNKNOWN_TYPE_SECONDS": 2},
    "functions.pipeline.worker": {"OUT_OF_TURN_SECONDS": 1},
    "functions.pipeline.sweep": {"FIRST_RESEND": timedelta(seconds=8)},
    "functions.aws.clients": {"READ_TIMEOUT_SECONDS": 3},
    # Longer than PostgreSQL takes to see a deadlock, shorter than the rest of an invocation in which a job may start.
    "functions.db.sessions": {
        "SETTINGS": {"lock_timeout": "1300ms", "idle_in_transaction_session_timeout": "8s"},
    },
    "functions.aws.ses": {"RATE_SECONDS": 1.0, "AWAY_SECONDS": 3.0, "PAUSE_SECONDS": 3.0, "QUOTA_SECONDS": 3.0},
    "functions.email.eligibility": {"DOUBT": DOUBT, "DOUBT_STEP": timedelta(seconds=2)},
}

WALL_CLOCKS = ("functions.pipeline.worker", "functions.pipeline.sweep")
"""Modules that read the wall clock as `datetime.now`."""


class Saboteur:
    """The faults of one process. A forked child calls `begin` to have its own."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.skew = 0.0
        self.role = FUNCTION
        self.rng = random.Random()
        self.fate: Fate | None = None
        self.passes_left = 0
        self.ahead = False
        """Whether this process gets a new release before the others."""

    def begin(self, role: str, *key: object, fate: Fate | None = None) -> None:
        """Seed this process's faults by its role and place in the run. Its end is `fate`, if it has one."""
        self.role, self.fate = role, None
        self.rng = random.Random(repr((self.spec.seed, role, *key)))
        self.skew = self.rng.uniform(-self.spec.skew_seconds, self.spec.skew_seconds)
        self.ahead = self.rng.random() < 0.5
        if fate:
            self._await(fate)

    def _await(self, fate: Fate) -> None:
        self.fate = fate
        self.passes_left = self.rng.randint(1, ceil(self.spec.life / fate.point.share))

    def strikes(self, probability: float) -> bool:
        """Whether the fault happens this time; never once the run has been calmed."""
        return self.rng.random() < probability and not Path(self.spec.calm).exists()

    def on(self, switch: str) -> bool:
        """Whether a fault that lasts a while is under way."""
        return (Path(self.spec.switches) / switch).exists()

    def note(self, fault: str) -> None:
        """Log a fault: one short append, which is atomic."""
        with Path(self.spec.log).open("a") as log:
            log.write(f"{self.role}\t{fault}\n")

    def pass_by(self, point: Point) -> None:
        """Die here, be held up here, or neither."""
        if self.fate and point is self.fate.point:
            self.passes_left -= 1
            if self.passes_left <= 0 and self.strikes(1.0):
                self._meet(self.fate)
        elif self.role == FUNCTION and self.strikes(self.spec.kill_rate * point.share):
            self._meet(Fate(point))

    def _meet(self, fate: Fate) -> None:
        if fate.stalls:
            self._await(Fate(fate.point))  # once is enough: next time it dies
            self.note(f"held up {fate.point.name}")
            time.sleep(self.spec.stall_seconds)
        else:
            self.note(f"killed {fate.point.name}")
            os.kill(os.getpid(), signal.SIGKILL)


def install(spec: Spec | None = None) -> Saboteur:
    """Arm this process; without a spec, with the one that the environment names."""
    saboteur = Saboteur(spec or Spec.read(os.environ[SPEC_VARIABLE]))
    saboteur.begin(FUNCTION, os.getpid())
    sys.meta_path.insert(0, _Finder(saboteur))
    true_time = time.time
    vars(time)["time"] = lambda: true_time() + saboteur.skew
    return saboteur


def changed_modules() -> frozenset[str]:
    """The modules that get kill points, other clocks or other functions."""
    places = (*POINTS, *TAMPERINGS)
    return frozenset({*(place.module for place in places), *CLOCKS, *WALL_CLOCKS})


def change(module: ModuleType, saboteur: Saboteur) -> None:
    """Give a freshly imported module its kill points and clocks. A name that is gone is an error, not a gap."""
    for name, value in CLOCKS.get(module.__name__, {}).items():
        old = getattr(module, name)
        setattr(module, name, {**old, **value} if isinstance(value, Mapping) else value)
    if module.__name__ in WALL_CLOCKS:
        getattr(module, "datetime")  # noqa: B009 - it has to be there
        vars(module)["datetime"] = _wrong_clock(saboteur)
    for tampering in TAMPERINGS:
        if tampering.module == module.__name__:
            original = getattr(module, tampering.function)
            setattr(module, tampering.function, _tampered(original, tampering, saboteur))
    for point in POINTS:
        if point.module == module.__name__:
            *owner, name = point.function.split(".")
            place: Any = functools.reduce(getattr, owner, module)
            setattr(place, name, _guarded(getattr(place, name), point, saboteur))


def _tampered(function: Callable[..., Any], tampering: Tampering, saboteur: Saboteur) -> Callable[..., Any]:
    @functools.wraps(function)
    def tampered(*args: Any, **options: Any) -> Any:
        module, _, name = tampering.by.partition(":")
        return getattr(importlib.import_module(module), name)(saboteur, function, *args, **options)

    return tampered


def _guarded(function: Callable[..., Any], point: Point, saboteur: Saboteur) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **options: Any) -> Any:
        if not point.after:
            saboteur.pass_by(point)
        result = function(*args, **options)
        if point.after:
            saboteur.pass_by(point)
        return result

    return guarded


def _wrong_clock(saboteur: Saboteur) -> type[datetime]:
    class Skewed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=saboteur.skew)

    return Skewed


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the others find, and changes the modules that are to be changed."""

    def __init__(self, saboteur: Saboteur) -> None:
        self.saboteur = saboteur
        self.names = changed_modules()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                change(module, self.saboteur)

            vars(spec.loader)["exec_module"] = exec_module
        return spec
