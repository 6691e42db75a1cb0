"""A cold start costs at most 1.3 times that of a bare handler which imports the same libraries and uses each once.

Measured is what a caller waits for beyond the start of Python: the import and the first invocation, with a real
PostgreSQL and a real SQS protocol. Ours and the bare handler take turns, three new processes each, so that a busy
machine slows both; their medians are compared.

Two measures must hold. Processor time (user and system) is what our code costs wherever it runs: other processes
hardly change it. Wall time also has the waits for PostgreSQL and SQS; on a shared machine it has those for a processor
too, which can double a single round's ratio. So a round that misses is repeated, and one good round in MOST_ROUNDS
passes: noise comes and goes, a cost of our own is in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import pytest
from sqlalchemy import Engine

from tests.contract.cold import SITUATIONS, Cold, Situation, enter, first_invocation
from tests.harness import Queues

pytestmark = pytest.mark.sql

MOST_TIMES_BARE = 1.3
PROCESSES = 3
MOST_ROUNDS = 5
MEASURED = {
    "daily-compliance-refresh": "cron-a-tenant-due",
    "compliance-refresh-worker": "refresh",
    "upkeep-worker": "probe",
    "api": "api",
    "relay": "relay-a-job-due",
    "sweep": "sweep",
    "migrate": "migrate",
}
"""One of each kind: the other cron handlers and workers are the same code around another domain's job."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure, in seconds: the medians of our processes and of the bare ones."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        return self.ours / self.bare

    def __str__(self) -> str:
        return f"{self.ours * 1000:.0f} ms, bare {self.bare * 1000:.0f} ms, {self.ratio:.2f}"


@dataclass(frozen=True, slots=True)
class Round:
    """Both measures of one round."""

    cpu: Compared
    wall: Compared

    def __str__(self) -> str:
        return f"processor {self.cpu}; wall {self.wall}"

    @property
    def passes(self) -> bool:
        return max(self.cpu.ratio, self.wall.ratio) <= MOST_TIMES_BARE


def measure(situation: Situation, observer: Engine, processes: int = PROCESSES) -> Round:
    ours: list[Cold] = []
    bare: list[Cold] = []
    for _ in range(processes):
        ours.append(enter(situation, observer))
        bare.append(first_invocation("tests.contract.bare.handler", {"libraries": situation.libraries}))
    return Round(
        cpu=Compared(median(row.cpu_seconds for row in ours), median(row.cpu_seconds for row in bare)),
        wall=Compared(median(row.wall_seconds for row in ours), median(row.wall_seconds for row in bare)),
    )


@pytest.mark.parametrize("function", MEASURED)
def test_a_cold_start_costs_little_more_than_its_libraries(function: str, observer: Engine, queues: Queues) -> None:
    situation = SITUATIONS[MEASURED[function]]
    measure(situation, observer, processes=1)  # compiles the bytecode and warms the disk's cache for both
    rounds: list[Round] = []
    while not (rounds and rounds[-1].passes) and len(rounds) < MOST_ROUNDS:
        rounds.append(measure(situation, observer))
        print(f"{function}: {rounds[-1]}")
    assert rounds[-1].passes, f"over {MOST_TIMES_BARE} in each round:\n" + "\n".join(map(str, rounds))
