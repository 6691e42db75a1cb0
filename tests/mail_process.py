"""A mail worker in a process of its own: `python -m tests.mail_process QUEUE ACCEPTED_FILE PER_SECOND PER_DAY`.

It serves the jobs of a queue of DATABASE_URL until it is ended, and writes a line for each mail taken.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import NullPool, create_engine

from functions.aws import ses, sqs
from functions.db import engine as db
from functions.db.settings import from_url
from functions.email import send
from tests.mail import ENVIRONMENT, KEY, Post, Provider

IDLE_SECONDS = 0.02


def main(queue: str, accepted: str, per_second: str, per_day: str) -> None:
    os.environ.update(ENVIRONMENT)
    own = from_url(os.environ["DATABASE_URL"])
    observer = create_engine("postgresql+pg8000://", creator=lambda: db.connect(own), poolclass=NullPool)
    provider = Provider(ses.Quota(float(per_second), int(per_day)))
    vars(send)["unsubscribe_key"] = lambda _: KEY
    vars(sqs)["change_visibility"] = lambda *_: 0
    with Path(accepted).open("a", buffering=1) as file:
        provider.after = lambda mail: file.write(f"{time.time()} {mail.tags['job']}\n")
        vars(ses).update(send=provider.send, quota=provider.quota)
        post = Post(observer, provider, UUID(int=0), UUID(int=0), UUID(int=0))
        while True:
            messages = post.take(queue)
            if messages:
                post.deliver(queue, messages)
            else:
                time.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
