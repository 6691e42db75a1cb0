"""Celery on Redis under `kill -9`: `enqueue SOCKET JOBS`, `work SOCKET` until it is killed, `count SOCKET JOBS`.

A task's effect is a line in a list of the receiver's, in another database of the same Redis. Settings: late
acknowledgement, rejection when a worker is lost, prefetch of one, as Celery's documentation advises for tasks that must
not be lost; the visibility timeout is 5 s instead of an hour, so that nobody waits for it.
https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.acks_late
"""

import json
import sys
import time
from collections import Counter

import redis
from celery import Celery

MODE, SOCKET = sys.argv[1:3]
VISIBILITY_SECONDS = 5
WORK_SECONDS = 0.005
CONCURRENCY = 4

app = Celery("celery_kill", broker=f"redis+socket://{SOCKET}")
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
)
receiver = redis.Redis(unix_socket_path=SOCKET, db=1)


@app.task(name="effect")
def effect(n: int) -> None:
    receiver.rpush("effects", n)
    time.sleep(WORK_SECONDS)


def count(jobs: int) -> dict[str, int]:
    broker = redis.Redis(unix_socket_path=SOCKET)
    seen = Counter(receiver.lrange("effects", 0, -1))
    return {
        "open": broker.llen("celery") + broker.hlen("unacked"),
        "failed": 0,
        "without_effect": jobs - len(seen),
        "doubled": seen.total() - len(seen),
    }


if __name__ == "__main__":
    if MODE == "work":
        options = ["--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        app.worker_main(["worker", f"--concurrency={CONCURRENCY}", *options])
    elif MODE == "enqueue":
        for number in range(int(sys.argv[3])):
            effect.delay(number)
        print("{}")
    else:
        print(json.dumps(count(int(sys.argv[3]))))
