"""`duecourse demo`: one simulated day through the deployed template."""

from duecourse.demo.run import run

__all__ = ["run"]
