"""The process of one cold start: imports a handler, invokes it once, and reports in its last line of output.

Run as a program, by tests/contract/cold.py. It loads nothing that a Lambda's runtime would not have loaded.
"""

import json
import sys
import time
from importlib import import_module


class Context:
    """A Lambda context with this much time left, whatever happens."""

    function_name = "cold"
    aws_request_id = "00000000-0000-0000-0000-000000000000"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


def main(target: str, event: str, seconds: str) -> None:
    module, _, name = target.rpartition(".")
    payload, context = json.loads(event), Context(float(seconds))
    wall, cpu = time.perf_counter(), time.process_time()
    answer = getattr(import_module(module), name)(payload, context)
    report = {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "modules": sorted(sys.modules),
        "answer": answer,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
