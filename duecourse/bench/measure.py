"""What a measurement is: figures with their spread, and ratios of them with a target.

Absolute numbers depend on the machine and on who else uses it. So whatever is compared runs in turns, and medians are
compared.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil

from duecourse.bench.peers import PeerMissing

Sense = Literal["at least", "at most"]


NOISE = 1.5
"""A small run has few rounds on a machine with other work: so much worse than its target is a regression of ours."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: the median of its runs, the least and the greatest."""

    value: float
    unit: str
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: list[float], unit: str) -> Figure:
        return cls(median(values), unit, min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of ours over another. Without a target it only informs. `value` None: it could not be measured."""

    value: float | None
    against: str
    sense: Sense = "at least"
    target: float | None = None

    @property
    def ok(self) -> bool:
        if self.target is None:
            return True
        if self.value is None:
            return False
        return self.value >= self.target if self.sense == "at least" else self.value <= self.target

    @property
    def regressed(self) -> bool:
        """Whether it misses its target by more than a small run's noise. What was not measured is reported apart."""
        if self.target is None or self.value is None:
            return False
        if self.sense == "at least":
            return self.value < self.target / NOISE
        return self.value > self.target * NOISE


@dataclass(slots=True)
class Result:
    """What one section found. `missing` names what could not be measured, with the reason."""

    figures: dict[str, Figure] = field(default_factory=dict)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        return self.figures[name].value if name in self.figures else None

    def compare(
        self,
        name: str,
        ours: str,
        theirs: list[str],
        *,
        against: str,
        sense: Sense = "at least",
        target: float | None = None,
    ) -> None:
        """Record ours over the best of theirs (the greatest, or the least where less is better)."""
        mine = self.value(ours)
        others = [found for item in theirs if (found := self.value(item)) is not None]
        best = (max if sense == "at least" else min)(others, default=None)
        value = mine / best if mine is not None and best else None
        self.ratios[name] = Ratio(value, against, sense, target)

    def limit(self, name: str, ours: str, *, against: str, target: float, over: float = 1.0) -> None:
        """Record a figure of ours over a constant, as something that may be at most `target`."""
        mine = self.value(ours)
        self.ratios[name] = Ratio(None if mine is None else mine / over, against, "at most", target)


Contestants = Mapping[str, Callable[[], float]]


def take_turns(contestants: Contestants, rounds: int, result: Result, unit: str) -> None:
    """Run each contestant once a round, in an order that rotates, and record the medians in `result`.

    One that is not there (`PeerMissing`) is recorded as missing and left out.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in result.missing:
                continue
            try:
                values[name].append(contestants[name]())
            except PeerMissing as error:
                result.missing[name] = str(error)
    result.figures |= {name: Figure.of(found, unit) for name, found in values.items() if found}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    with_model = Path("/proc/cpuinfo")
    if with_model.exists():
        lines = [line for line in with_model.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
