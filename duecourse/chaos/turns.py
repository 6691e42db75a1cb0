"""Whether the jobs of each FIFO group first started in the order in which they came due, as the receiver saw it. Pure.

When a job came due is known from its producer, never from the ledger, whose own idea of it is what is tested. A mail
has first started

- when the provider first heard of it, whatever the answer was: it logs each attempt before it decides on an answer;
- or when a run began that the ledger records as ended by the job itself (snoozed, failed): it may have ended before the
  provider heard of anything, as a mail does that missed its slot, and from then on others may pass;
- or when it died of the losses of its workers.

A run that was lost or given back is no start, or a later job that overtook a lost one would pass for in order. Nor can
the ledger hide a mail that went too early: of the later job only what the provider heard counts, and what is earlier
has to have started before that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Place:
    """Where an order stands in its group."""

    group: str
    number: int
    """Of all orders, in their order; decides between two without a time of their own."""
    timed: bool
    """Whether it was ordered for a time of its own."""
    due_from: float
    due_until: float
    """Seconds since 1970 between which it came due: exact if it was ordered for a time of its own, else between the
    first try to order it and the commit."""

    def before(self, other: Place) -> bool:
        """Whether it surely came due before the other."""
        if not (self.timed or other.timed):
            return self.number < other.number
        return self.due_until < other.due_from


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A job that the provider heard of before an earlier one of its group had started."""

    job: UUID
    by: UUID
    seconds: float
    """How much too early."""


def overtaken(
    places: Mapping[UUID, Place], heard: Mapping[UUID, float], began: Mapping[UUID, float]
) -> Iterator[Overtaken]:
    """Every job that was overtaken, once. `heard`: when the provider first heard of a job; `began`: when the first run
    began that the job itself ended, or when it died.
    """
    groups: dict[str, list[UUID]] = defaultdict(list)
    for job_id, place in places.items():
        groups[place.group].append(job_id)
    for members in groups.values():
        sent = sorted((job_id for job_id in members if job_id in heard), key=lambda job_id: heard[job_id])
        for job_id in members:
            started = min(heard.get(job_id, float("inf")), began.get(job_id, float("inf")))
            first = next((other for other in sent if places[job_id].before(places[other])), None)
            if first is not None and heard[first] < started:
                yield Overtaken(job_id, first, started - heard[first])
