"""With tracing on, a batch leaves a subsegment at the X-Ray daemon; with it off, the X-Ray SDK is not even imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

TRACED = """
import sys
from functions.pipeline import observe
with observe.span("batch", queue="upkeep", messages=2):
    pass
print("aws_xray_sdk" in sys.modules)
"""


def _run(**extra: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRACED], env=os.environ | extra, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_span_reaches_the_daemon() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10)
        loaded = _run(
            POWERTOOLS_TRACE_DISABLED="false",
            AWS_XRAY_DAEMON_ADDRESS=f"127.0.0.1:{daemon.getsockname()[1]}",
            LAMBDA_TASK_ROOT="/var/task",
            _X_AMZN_TRACE_ID="Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        )
        segment = daemon.recv(65_535).decode()
    assert loaded == "True"
    assert '"name": "## batch"' in segment
    assert '"queue": "upkeep"' in segment


def test_without_tracing_the_sdk_is_not_loaded() -> None:
    assert _run(POWERTOOLS_TRACE_DISABLED="true") == "False"
