"""Upper bounds of the histograms that the ledger keeps of its runs, in seconds. Changing them needs a migration."""

from __future__ import annotations

from bisect import bisect_left

DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""From one row written to a function's longest timeout."""
WAIT_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 86_400.0)
"""From the relay's fast path to a day's outage."""


def bucket(seconds: float, bounds: tuple[float, ...]) -> int:
    """The index of the first bound that `seconds` does not exceed; `len(bounds)` beyond the last."""
    return bisect_left(bounds, seconds)
