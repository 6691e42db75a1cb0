"""The compliance score: 100 − 5 × (missing + expiring + overdue), not under 0.

*missing*: documents pending review or rejected. *expiring*: valid documents whose latest version expires within 30
days, today included. *overdue*: filings in draft or prepared whose due date has passed. The statement in queries.py
takes these numbers as parameters; tests/sql holds it to a slow and obvious reference.
"""

from __future__ import annotations

from typing import Final

FULL_SCORE: Final = 100
POINTS_PER_FINDING: Final = 5
EXPIRING_WITHIN_DAYS: Final = 30

LOW_RISK_FROM: Final = 80
MEDIUM_RISK_FROM: Final = 50
"""Scores under it are of high risk."""
