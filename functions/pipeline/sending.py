"""Sends messages to many queues at once, in calls of ten, so that no queue and no message holds up another.

A call never has two messages of one chain (a FIFO group), and a chain's next message waits until the one before was
taken: so its order holds whatever SQS refuses. Calls that do not come back in time stay under way in their threads;
their queue gets no more until they have ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from functions.aws import sqs
from functions.pipeline import observe

PARALLEL_CALLS = 8
"""Of all queues together; each that has something to send gets its share of them."""
FAILED_CALLS = 3
"""So many calls in a row that failed as a whole: the queue gets no more."""
MOST_REFUSED = 1_000
"""So many messages of a queue refused one by one: it gets no more."""


@dataclass(frozen=True, slots=True)
class Item:
    """A message, and the chain in which it keeps its place. `key` names it."""

    key: str
    chain: str
    message: sqs.Outgoing


Chain = deque[Item]


@dataclass(slots=True)
class Lane:
    """A queue's part of what is being sent."""

    url: str
    ready: deque[Chain] = field(default_factory=deque)
    """Chains whose next message may go."""
    open: bool = False
    """Whether it is part of what is being sent now; the rest of a chain belongs to nobody once that has ended."""
    refused: dict[str, str] = field(default_factory=dict)
    """The messages that SQS refused, by key; their chains go no further."""
    stopped: set[str] = field(default_factory=set)
    """The chains of those."""
    alone: set[str] = field(default_factory=set)
    """Messages of a call that was refused because of one of them: they go one by one."""
    calls: int = 0
    failed_calls: int = 0
    """Failed in a row."""
    why: str | None = None
    """What SQS last said when it did not take something; None once it takes everything again."""

    @property
    def given_up(self) -> bool:
        return self.failed_calls >= FAILED_CALLS or len(self.refused) >= MOST_REFUSED

    def again(self, chains: Sequence[Chain]) -> None:
        """Let the next messages of these chains go, if this is still their turn."""
        if self.open:
            self.ready.extend(chains)

    def next_call(self) -> list[Chain]:
        """The chains whose heads make the next call."""
        chains = [self.ready.popleft()]
        if chains[0][0].key in self.alone:
            return chains
        while self.ready and len(chains) < sqs.ENTRIES_PER_CALL and self.ready[0][0].key not in self.alone:
            chains.append(self.ready.popleft())
        return chains


class Sending:
    """The calls of SQS under way, and what became of those that have ended. Used by one thread."""

    def __init__(self, url_of: Callable[[str], str]) -> None:
        self._url_of = url_of
        self._lanes: dict[str, Lane] = {}
        self._calls: dict[Future[list[str | None]], tuple[Lane, list[Chain]]] = {}
        self._sent: list[str] = []
        self._threads: ThreadPoolExecutor | None = None

    def send(self, items: Mapping[str, Sequence[Item]], *, start_until: float, wait_until: float) -> None:
        """Send the items of each queue in their order; the instants are of `time.monotonic`.

        Starts no call after `start_until`, and waits for those under way until `wait_until`.
        """
        lanes = [self._open(queue, members) for queue, members in items.items()]
        while True:
            if time.monotonic() < start_until:
                self._start_calls()
            if not any(lane.calls for lane in lanes) or not self.wait(until=wait_until):
                break
        for lane in lanes:
            lane.open = False
            lane.ready.clear()

    def wait(self, *, until: float) -> bool:
        """Wait for the next calls to end, and learn what became of them. False when none ended in time."""
        ended, _ = wait(self._calls, timeout=max(0.0, until - time.monotonic()), return_when=FIRST_COMPLETED)
        for call in ended:
            self._settle(call)
        return bool(ended)

    def take_sent(self) -> list[str]:
        """The keys of what SQS took since this was last asked."""
        sent, self._sent = self._sent, []
        return sent

    @property
    def has_sent(self) -> bool:
        """Whether `take_sent` would give anything."""
        return bool(self._sent)

    @property
    def under_way(self) -> bool:
        """Whether any call has not ended."""
        return bool(self._calls)

    def closed(self) -> set[str]:
        """The queues that get nothing for now: given up, or with a call under way."""
        return {queue for queue, lane in self._lanes.items() if lane.calls or lane.given_up}

    def refused(self) -> list[str]:
        """The keys of the messages that SQS refused."""
        return [key for lane in self._lanes.values() for key in lane.refused]

    def stopped(self) -> list[tuple[str, str]]:
        """The chains that go no further, by queue: one of their messages was refused, or `stop` said so."""
        return [(queue, chain) for queue, lane in self._lanes.items() for chain in lane.stopped]

    def stop(self, queue: str, chain: str) -> None:
        """Let nothing more of this chain go."""
        self._lane(queue).stopped.add(chain)

    def is_stopped(self, queue: str, chain: str) -> bool:
        """Whether this chain goes no further."""
        return chain in self._lane(queue).stopped

    def failing(self) -> dict[str, str]:
        """The queues that do not take everything, and what SQS said last."""
        return {queue: lane.why for queue, lane in self._lanes.items() if lane.why is not None}

    def close(self) -> None:
        """Leave the calls that are still under way to themselves."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _lane(self, queue: str) -> Lane:
        if queue not in self._lanes:
            self._lanes[queue] = Lane(self._url_of(queue))
        return self._lanes[queue]

    def _open(self, queue: str, items: Sequence[Item]) -> Lane:
        chains: dict[str, Chain] = {}
        for item in items:
            chains.setdefault(item.chain, deque()).append(item)
        lane = self._lane(queue)
        lane.ready.extend(chains.values())
        lane.open = True
        return lane

    def _start_calls(self) -> None:
        """Start what may be under way at once, the queues in turn."""
        while busy := [lane for lane in self._lanes.values() if (lane.ready or lane.calls) and not lane.given_up]:
            share = max(1, PARALLEL_CALLS // len(busy))
            able = [lane for lane in busy if lane.ready and lane.calls < share]
            if not able:
                return
            for lane in able:
                chains = lane.next_call()
                lane.calls += 1
                call = self._executor().submit(sqs.send_batch, lane.url, [chain[0].message for chain in chains])
                self._calls[call] = lane, chains

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            sqs.sender()  # made here: boto3 does not allow two threads to make clients at once
            # Threads are made when they are needed; this many would be if eight queues had all calls hanging.
            self._threads = ThreadPoolExecutor(max_workers=PARALLEL_CALLS * PARALLEL_CALLS)
        return self._threads

    def _settle(self, call: Future[list[str | None]]) -> None:
        """Put a call's outcome where it belongs: sent, refused, to be tried one by one, or failed."""
        lane, chains = self._calls.pop(call)
        lane.calls -= 1
        try:
            answers = call.result()
        except (BotoCoreError, ClientError) as error:
            lane.why = observe.summary(error)
            if not sqs.is_about_contents(error):
                lane.failed_calls += 1
                return  # nobody knows what arrived: these chains wait for the next look
            if len(chains) > 1:
                lane.alone.update(chain[0].key for chain in chains)
                lane.again(chains)
                return
            answers = [lane.why]
        lane.failed_calls = 0
        for chain, refusal in zip(chains, answers, strict=True):
            item = chain.popleft()
            if refusal is not None:
                lane.why = refusal
                lane.refused[item.key] = refusal
                lane.stopped.add(item.chain)
                continue
            self._sent.append(item.key)
            if not lane.refused:
                lane.why = None
            if chain:
                lane.again([chain])
