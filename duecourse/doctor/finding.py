"""What a check finds: how bad it is, in which words, and the command that puts it right."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something should be done before it does not."""
    PROBLEM = "problem"
    """Jobs do not run, or would be lost track of."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    what: str
    fix: str = ""
    """What to do, as a command where there is one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a check yields for each thing that is wrong; one that yields nothing found all in order."""

    what: str
    fix: str
    level: Level = Level.PROBLEM


def warning(what: str, fix: str) -> Fault:
    """A fault that does not stop anything yet."""
    return Fault(what, fix, Level.WARNING)
