"""Everything that runs in a run: a stack with a disk of its own, the double of SES, the load and the crew."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from duecourse.chaos import inject
from duecourse.chaos.applications import Applications
from duecourse.chaos.inject import Injector
from duecourse.chaos.load import Load
from duecourse.chaos.plan import Plan
from duecourse.chaos.provider import Provider
from duecourse.chaos.roles import LEASE_SECONDS, STALL_MARGIN_SECONDS, TIMEOUT_SECONDS, VISIBILITY_SECONDS
from duecourse.chaos.saboteur import SPEC_VARIABLE, Spec
from duecourse.local import aws, emulator, stack
from duecourse.local.stack import Stack
from duecourse.local.state import REPOSITORY, Home
from functions.db.engine import make_engine

SKEW_SECONDS = 300.0
CREW_END_SECONDS = 5.0
FUNCTION_CONCURRENCY = 2
"""The least that AWS allows."""

SITE = """import os, traceback
if "_LAMBDA_FUNCTION_ARN" in os.environ:
    try:
        from duecourse.chaos import saboteur
        saboteur.install()
    except BaseException:  # without it the function would run on with other clocks
        traceback.print_exc()
        os._exit(1)
"""
"""Run by every Python that the emulator starts, and meant for the functions."""


@dataclass
class Stage:
    """What is there while a run lasts."""

    home: Home
    spec: Spec
    provider: Provider
    crew: subprocess.Popen[bytes]
    injector: Injector
    load: Load

    @classmethod
    def set_up(cls, plan: Plan, home: Home) -> Stage:
        """Start all of it, after removing what an earlier run left. What a failure leaves running is stopped."""
        stop(home)
        shutil.rmtree(home.directory, ignore_errors=True)
        home.directory.mkdir(parents=True)
        try:
            return cls._start(plan, home)
        except BaseException:
            stop(home)
            raise

    @classmethod
    def _start(cls, plan: Plan, home: Home) -> Stage:
        rng = random.Random(f"{plan.seed}/run")
        spec = Spec(
            seed=plan.seed,
            log=str(home.directory / "faults.log"),
            calm=str(home.directory / "calm"),
            kill_rate=plan.kill_rate,
            life=plan.life,
            stall_seconds=LEASE_SECONDS + STALL_MARGIN_SECONDS,
            skew_seconds=SKEW_SECONDS,
            switches=str(home.directory / "switches"),
        )
        Path(spec.switches).mkdir()
        Path(spec.log).touch()
        spec.write(home.directory / "spec.json")
        no_disk = inject.mount_disk(home.postgres)
        provider = Provider(random.Random(f"{plan.seed}/provider"))
        variables = _emulator_variables(home, provider.start())
        emulator.start(home, variables=variables)
        running = stack.up(home)
        provider.report(running.endpoint, running.queue_url("ses-events"))
        _shorten(running)
        inject.restart_emulator(home, variables)  # from here on there is a state to come back to
        load = Load(make_engine(running.database), rng, plan.seed, plan.backlog)
        load.prepare(plan.jobs)
        crew = _start_crew(plan, home, running, variables)
        applications = Applications(running.database, load)
        injector = Injector(
            home, running, provider, variables, crew, rng, plan.poison, Path(spec.switches), applications
        )
        if no_disk:
            injector.skipped["a disk of PostgreSQL's own"] = no_disk
        return cls(home, spec, provider, crew, injector, load)

    def calm(self) -> None:
        """From now on nobody is killed."""
        Path(self.spec.calm).touch()

    def tally(self) -> Counter[str]:
        """Every fault so far, by name, and the exceptions out of handlers."""
        lines = Path(self.spec.log).read_text().splitlines()
        own = Counter(line.split("\t", 1)[1] for line in lines)
        return own + self.injector.faults + self.provider.faults + self.load.faults

    def tear_down(self) -> None:
        """End all of it. The logs stay, for whoever wants to know what happened."""
        self.crew.send_signal(signal.SIGTERM)
        try:
            self.crew.wait(CREW_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.crew.kill()
            self.crew.wait()
        self.load.engine.dispose()
        self.provider.stop()
        stop(self.home)


def stop(home: Home) -> None:
    """End the stack of a run."""
    stack.down(home)
    inject.unmount_disk(home.postgres)


def _emulator_variables(home: Home, provider_url: str) -> dict[str, str]:
    """Its state outlives it, and every function starts with a saboteur and sends its mail to the double."""
    site = home.directory / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    return {
        "PERSIST_STATE": "1",
        "STATE_DIR": str(home.directory / "emulator"),
        "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}",
        SPEC_VARIABLE: str(home.directory / "spec.json"),
        "AWS_ENDPOINT_URL_SESV2": provider_url,
    }


def _shorten(running: Stack) -> None:
    """Give the workers' functions and queues the same short times as the workers of our own, and few processes.

    Every restart of the emulator starts all of them anew, which would take most of a small machine's time.
    """
    functions, sqs = running.client("lambda"), running.client("sqs")
    pages = functions.get_paginator("list_functions").paginate()
    for name in [found["FunctionName"] for page in pages for found in page["Functions"]]:
        if name.endswith("-worker"):
            functions.update_function_configuration(FunctionName=name, Timeout=int(TIMEOUT_SECONDS))
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        limit = {"MaximumConcurrency": FUNCTION_CONCURRENCY}
        functions.update_event_source_mapping(UUID=mapping["UUID"], ScalingConfig=limit)
    for url in sqs.list_queues(QueueNamePrefix=running.name)["QueueUrls"]:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)})


def _start_crew(plan: Plan, home: Home, running: Stack, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The crew, with the environment that the deployed mail worker has."""
    function = running.client("lambda").get_function_configuration(FunctionName=f"{running.name}-email-worker")
    environment = {
        **{name: os.environ[name] for name in emulator.KEPT_VARIABLES if name in os.environ},
        **function["Environment"]["Variables"],
        **{name: variables[name] for name in (SPEC_VARIABLE, "AWS_ENDPOINT_URL_SESV2")},
        "AWS_ENDPOINT_URL": running.endpoint,
        "AWS_ACCESS_KEY_ID": aws.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": aws.ACCESS_KEY,
        "AWS_DEFAULT_REGION": aws.REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DATABASE_URL": running.database_url,
        "POWERTOOLS_LOG_LEVEL": "WARNING",
    }
    with (home.directory / "crew.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "duecourse.chaos.crew", str(plan.workers), str(plan.random_kill_seconds)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
