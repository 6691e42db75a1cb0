"""When a failed attempt is tried again: a pure decision, carried out elsewhere."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_VISIBILITY_DELAY_SECONDS = 900.0
"""Up to here a retry waits in the queue by visibility timeout; longer waits go through the ledger, so that no
message fills the in-flight limit (docs/architecture.md, rule 8)."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/)."""

    max_attempts: int = 5
    base_seconds: float = 10.0
    cap_seconds: float = 900.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.base_seconds <= 0 or self.cap_seconds < self.base_seconds:
            raise ValueError(f"a retry policy needs max_attempts >= 1 and 0 < base_seconds <= cap_seconds: {self}")

    def ceiling_seconds(self, failed_attempts: int) -> float:
        """The longest wait after that many failed attempts (1 or more), in seconds."""
        # min() on the exponent keeps the power finite for policies with very many attempts.
        return min(self.cap_seconds, self.base_seconds * 2.0 ** min(failed_attempts - 1, 60))


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `delay_seconds`."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Exhausted:
    """All attempts are used up."""


def after_failure(
    policy: RetryPolicy, failed_attempts: int, *, wanted_delay: float | None = None, rng: random.Random
) -> Again | Exhausted:
    """Decide what follows the failed attempt number `failed_attempts` (counting from 1).

    `wanted_delay` is the handler's own wish in seconds and is honoured as it stands, without jitter.
    """
    if failed_attempts >= policy.max_attempts:
        return Exhausted()
    if wanted_delay is not None:
        return Again(max(0.0, wanted_delay))
    return Again(rng.uniform(0.0, policy.ceiling_seconds(failed_attempts)))
