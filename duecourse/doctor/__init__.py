"""`duecourse doctor`: looks at a deployment from outside, and says what is wrong and what to do about it."""

from __future__ import annotations
