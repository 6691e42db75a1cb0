"""Runs the checks, several at a time; one that cannot look does not keep the others from looking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from duecourse.doctor import database, functions, mail, platform, queues
from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, Finding, Level
from functions.core.errors import DuecourseError

THREADS = 8


@dataclass(frozen=True, slots=True)
class Check:
    """A question to a deployment, and the answer where all is well."""

    name: str
    healthy: str
    look: Callable[[Facts], Iterable[Fault]]


CHECKS = (
    Check("stack", "CloudFormation made the last change", platform.stack),
    Check("clock", "this machine and AWS agree on the time", platform.clock),
    Check("secrets", "every secret is there", platform.secrets),
    Check("alarms", "no alarm is on", platform.alarms),
    Check("functions", "every function is active", functions.active),
    Check("mappings", "every worker takes from its queue", functions.mappings),
    Check("rules", "every rule fires", functions.rules),
    Check("concurrency", "the account has room for every worker", functions.concurrency),
    Check("queues", "every queue and dead-letter queue is there, kept for 14 days", queues.present),
    Check("dead letters", "every queue moves its dead to its own dead-letter queue", queues.policies),
    Check("visibility", "no message comes back while its worker is at work", queues.visibility),
    Check("backlog", "no dead-letter queue holds anything", queues.dead_letters),
    Check("mail account", "SES sends for this account", mail.account),
    Check("mail identity", "the sender is verified, and its mail signed", mail.identity),
    Check("mail events", "SES reports what becomes of mails", mail.events),
    Check("api", "the management API answers", database.api),
    Check("migrations", "the schema is the deployed code's", database.migrations),
    Check("partitions", "the coming months have their partitions", database.partitions),
    Check("database", "PostgreSQL answers fast and has room", database.database),
    Check("heartbeats", "relay and sweep do their rounds", database.heartbeats),
    Check("schedules", "every schedule is on", database.schedules),
    Check("conservation", "every job is accounted for", database.conservation),
)


def examine(facts: Facts, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """What every check found, in the order of the checks."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [finding for found in pool.map(lambda check: list(_run(check, facts)), checks) for finding in found]


def _run(check: Check, facts: Facts) -> Iterator[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        faults = list(check.look(facts))
    except ClientError as error:
        denied = error.response["Error"].get("Code", "") in {
            "AccessDenied",
            "AccessDeniedException",
            "UnauthorizedOperation",
        }
        fix = "use a profile that may read this" if denied else "look at it in the AWS console"
        yield Finding(check.name, Level.UNKNOWN, f"AWS would not say: {error}", fix)
    except BotoCoreError as error:
        yield Finding(check.name, Level.UNKNOWN, f"AWS cannot be asked: {error}", "check the network and the profile")
    except DuecourseError as error:
        yield Finding(check.name, Level.UNKNOWN, f"it cannot be looked at: {error}", "put this right first")
    else:
        for fault in faults:
            yield Finding(check.name, fault.level, fault.what, fault.fix)
        if not faults:
            yield Finding(check.name, Level.OK, check.healthy)
