"""Order within the groups of a FIFO queue: a group's jobs first start in the order in which they came due.

The ledger knows whose turn it is (`jobs.turn`), so the order holds whatever becomes of the messages. Here is what a
batch does with it: which messages are tried together, and what becomes of one that came before its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.catalog import Catalog
from functions.pipeline.ledger import SENT_AGAIN, Reference, lost_runs
from functions.pipeline.triage import Judged, Verdict

# A message came while an earlier member of its group had not started: that one's message is lost, was refused by SQS,
# or waits in the ledger (a strict job's retry). In SQS the later one would stay in front for ever, so all of the group
# that was sent and has not started goes back to the outbox, each behind what is before it. A group of which a member
# runs elsewhere is left alone for as long as that one's lease lasts. A run whose lease is over, and whose message would
# have come first, is recorded as lost.
PUT_BACK = text(f"""
    WITH member AS MATERIALIZED (
        SELECT id, group_key, turn, type, state, outbox_at, runs, started_at, lease_until FROM jobs
        WHERE queue = :queue AND group_key = ANY(CAST(:groups AS text[])) AND turn IS NOT NULL
          AND state IN ('waiting', 'retrying', 'delayed', 'active')
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), running AS (
        SELECT group_key, max(lease_until) AS until FROM member
        WHERE state = 'active' AND lease_until > clock_timestamp() GROUP BY group_key
    ), place AS MATERIALIZED (
        SELECT id, type, state, outbox_at, runs, started_at, lease_until,
               greatest(clock_timestamp(), max(outbox_at) OVER earlier)
               + row_number() OVER (PARTITION BY group_key ORDER BY turn, id) * interval '1 microsecond' AS send_at
        FROM member WHERE group_key NOT IN (SELECT group_key FROM running)
        WINDOW earlier AS (PARTITION BY group_key ORDER BY turn, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), {lost_runs("place", "the lease ran out and the message is gone")},
    returned AS (
        UPDATE jobs AS j SET
            {SENT_AGAIN}, outbox_at = place.send_at
        FROM place WHERE j.id = place.id AND place.outbox_at IS NULL
        RETURNING j.id
    )
    SELECT (SELECT json_agg(id) FROM returned) AS returned,
           (SELECT extract(epoch FROM max(until) - clock_timestamp())::float8 FROM running) AS running_seconds
""")


@dataclass(frozen=True, slots=True)
class PutBack:
    """The jobs that were put back into the outbox, and for how long others of their groups may still run elsewhere."""

    returned: frozenset[UUID]
    running_seconds: float


def put_back(tx: Connection, groups: Sequence[str], *, queue: str) -> PutBack:
    """Send what these groups have sent and not started again, in the order of their turns. One statement."""
    row = tx.execute(PUT_BACK, {"queue": queue, "groups": list(groups)}).one()
    return PutBack(frozenset(map(UUID, row.returned or ())), row.running_seconds or 0.0)


class Turns:
    """A batch's messages on their way through the claim.

    On a standard queue every message is a group of its own. A job whose run was lost has a round to itself: if it
    kills the worker, it kills nobody's work; within its group all later ones wait for it. Of a group only jobs that one
    call performs are tried together, or some of it would run before what is ahead of them.
    """

    def __init__(self, references: Sequence[Reference], *, queue: str, catalog: Catalog) -> None:
        self._catalog = catalog
        self._alone: dict[UUID, int] = {}
        self._groups: dict[object, deque[Reference]] = {}
        self._fifo = catalog.queues[queue].fifo
        for reference in references:
            self._groups.setdefault(self._key(reference), deque()).append(reference)

    def next(self) -> list[Reference]:
        """What to try now; empty when everything has been answered."""
        together = list(chain.from_iterable(map(self._front, self._groups.values())))
        if together:
            return together
        heads = [group[0] for group in self._groups.values() if group]
        # Those that were lost alone before go last, so that they cannot keep the merely unlucky from running.
        return [min(heads, key=lambda reference: self._alone[reference.id])] if heads else []

    def rest(self) -> list[Reference]:
        """All that has not been answered."""
        return list(chain.from_iterable(self._groups.values()))

    def learn(self, tried: Sequence[Reference], verdicts: Mapping[UUID, Judged]) -> list[Reference]:
        """Take note of what became of a round: what was claimed is done with, and so is what the verdict ends.

        Returns those that came before their turn and have nothing to wait for in this batch.
        """
        early = []
        seen: set[object] = set()
        for reference in tried:
            key = self._key(reference)
            stays = False
            match verdicts[reference.id].verdict if reference.id in verdicts else None:
                case Verdict.REVIVED:
                    stays = True
                case Verdict.LOST | Verdict.SUSPECT:
                    self._alone[reference.id] = verdicts[reference.id].lost_alone
                    stays = True
                case Verdict.OUT_OF_TURN:
                    # One ahead of it in this very round may have been what it waited for.
                    stays = key in seen
                    if not stays:
                        early.append(reference)
            seen.add(key)
            if not stays:
                self._groups[key].remove(reference)
        return early

    def _key(self, reference: Reference) -> object:
        return reference.group if self._fifo else reference.id

    def _front(self, group: Sequence[Reference]) -> Iterator[Reference]:
        if not group:
            return
        unit = self._unit(group[0])
        for reference in takewhile(lambda item: item.id not in self._alone and self._unit(item) == unit, group):
            yield reference
            if (row := self._catalog.job_types.get(reference.type)) and row.strict:
                return

    def _unit(self, reference: Reference) -> str | None:
        """What performs it; None for jobs that run one by one in the batch's transaction, whatever their types."""
        row = self._catalog.job_types.get(reference.type)
        return row.perform if row and (row.set_based or row.outside_effect) else None
