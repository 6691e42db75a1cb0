"""Cold starts: import and first invocation of each function with its sample event, in a new process each.

The yardstick is a function with boto3 and a Powertools logger in it. Python's own start is in neither.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from duecourse.bench import feed, mail_double
from duecourse.bench.bench import Bench
from duecourse.bench.handler import MEGABYTE, invoke
from duecourse.bench.measure import Result, take_turns
from duecourse.local.state import REPOSITORY

ONE_LOOK = 5_000
"""Milliseconds left to a relay that shall not look at the outbox a second time."""
FUNCTION = re.compile(r"FunctionName: !Sub \$\{AWS::StackName\}-(\S+)\s(?:.*\n)??\s+Handler: (\S+)\.(\w+)\n")
SMALL = ("compliance-refresh-worker", "daily-compliance-refresh", "relay")
BARE = "boto3 and Powertools"


def run(bench: Bench) -> Result:
    """Milliseconds of each function's first invocation, imports included."""
    result = Result()
    functions = {name: f"{module}:{handler}" for name, module, handler in FUNCTION.findall(_template())}
    wanted = {name: functions[name] for name in SMALL} if bench.small else functions
    with mail_double.running() as double:
        settings = {
            "AWS_ENDPOINT_URL": double.endpoint,
            "MAIL_SENDER": "no-reply@firm.example",
            "UNSUBSCRIBE_URL": "https://unsubscribe.example/",
            "UNSUBSCRIBE_SECRET_ARN": "arn:of:key",
        }
        with feed.environment(feed.ENVIRONMENT | settings), bench.postgres.under_test("bench_cold"):
            contestants = {name: partial(first, handler, name) for name, handler in wanted.items()}
            contestants[BARE] = partial(first, "duecourse.bench.bare:start", "")
            for contestant in contestants.values():
                contestant()  # compiles the bytecode
            take_turns(contestants, 3 if bench.small else 5, result, "ms")
            memory = [_report(handler, name)["memory"] / MEGABYTE for name, handler in wanted.items()]
            result.details["memory, MB"] = f"{min(memory):.0f} to {max(memory):.0f}"
    for name in wanted:
        result.compare(f"cold_{name}", name, [BARE], against=BARE, sense="at most")
    return result


def first(handler: str, function: str) -> float:
    """Milliseconds from before the import to the answer."""
    return float(_report(handler, function)["served"][0]["wall"]) * 1000


def _report(handler: str, function: str) -> dict[str, Any]:
    event = json.loads((REPOSITORY / f"events/{function}.json").read_text()) if function else {}
    return invoke({"handler": handler, "events": [event], "milliseconds": ONE_LOOK if function == "relay" else 60_000})


def _template() -> str:
    return (REPOSITORY / "template.yaml").read_text()
