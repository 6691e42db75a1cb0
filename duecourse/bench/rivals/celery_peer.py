"""Celery on Redis: `enqueue SOCKET JOBS` times delay(); `process SOCKET JOBS PROCESSES` a worker that does nothing.

The last line of output is JSON with the seconds. Celery has no bulk call and no deduplication key.
"""

import json
import subprocess
import sys
import time

import redis
from celery import Celery

POLL_SECONDS = 0.01
READY_SECONDS = 30
SOCKET = sys.argv[2] if len(sys.argv) > 2 and sys.argv[1] in {"enqueue", "process"} else sys.argv[-1]

app = Celery("celery_peer", broker=f"redis+socket://{SOCKET}")
app.conf.task_ignore_result = True


@app.task(name="empty")
def empty(n: int, note: str) -> None:
    """Does nothing."""


def enqueue(jobs: int) -> float:
    started = time.perf_counter()
    for n in range(jobs):
        empty.delay(n, "a job that does nothing")
    return time.perf_counter() - started


def process(broker: redis.Redis, jobs: int, processes: str) -> float:
    """From the first job taken to the last one acknowledged; the worker's start is not counted."""
    worker = subprocess.Popen(
        [sys.executable, "-P", __file__, "worker", processes, SOCKET], stdout=sys.stderr, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while broker.llen("celery") == jobs:
            if time.monotonic() > deadline:
                raise SystemExit("the worker took no job")
            time.sleep(POLL_SECONDS)
        started = time.perf_counter()
        while broker.llen("celery") or broker.hlen("unacked"):
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started
    finally:
        worker.terminate()
        worker.wait()


def main() -> None:
    mode, socket, jobs_text, *rest = sys.argv[1:]
    broker = redis.Redis(unix_socket_path=socket)
    broker.flushall()
    jobs = int(jobs_text)
    seconds = enqueue(jobs)
    if mode == "process":
        seconds = process(broker, jobs, rest[0])
    print(json.dumps({"jobs": jobs, "seconds": seconds}))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(
            ["worker", f"--concurrency={sys.argv[2]}", "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
        )
    else:
        main()
