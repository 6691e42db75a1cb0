"""A Lambda's process for the sections `handler` and `cold`: it loads a handler and serves events, one after another.

Reads `{"handler": "package.module:name", "events": […], "milliseconds": …, "all_succeed": …}` from standard input. Its
last line of output is a report: the seconds of each event (wall and processor; the first one's with the import), and
the greatest memory, in bytes.
Standard library only, so that it loads nothing which a Lambda's runtime would not have loaded.
"""

import json
import resource
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any


class Context:
    """A Lambda context with a minute left, whatever happens."""

    function_name = "bench"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:bench"
    aws_request_id = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds


def _greatest_memory() -> int:
    """In bytes. Linux keeps a parent's peak in ru_maxrss through fork and exec, so its own figure is read there."""
    with suppress(OSError), open("/proc/self/status") as status:  # noqa: PTH123 - pathlib would be one more import
        lines = [line.split() for line in status if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0][1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.read())
    context = Context(order.get("milliseconds", 60_000))
    module, _, name = order["handler"].partition(":")
    wall, cpu = time.perf_counter(), time.process_time()
    handler = getattr(import_module(module), name)
    served = []
    for event in order["events"]:
        answer = handler(event, context)
        if order.get("all_succeed") and answer["batchItemFailures"]:
            raise SystemExit(f"{len(answer['batchItemFailures'])} messages failed")
        wall_now, cpu_now = time.perf_counter(), time.process_time()
        served.append({"wall": wall_now - wall, "cpu": cpu_now - cpu})
        wall, cpu = wall_now, cpu_now
    print(json.dumps({"served": served, "memory": _greatest_memory()}))


if __name__ == "__main__":
    main()
