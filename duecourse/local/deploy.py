"""Deploys template.yaml by CloudFormation: artifacts to S3, then one stack created or updated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from duecourse.local import aws, package
from duecourse.local.errors import DeployFailed, LocalError
from functions.db.settings import DatabaseSettings

STACK_NAME = "duecourse-local"
BUCKET = f"{STACK_NAME}-artifacts"
MAIL_DOMAIN = "duecourse.example"
UNSUBSCRIBE = "UnsubscribeUrl"
"""Parameter and output; the links of mails lead there. Only the emulator knows it, once it has made the function."""
DEPLOY_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.05
USABLE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}
"""States from which a stack can be updated; from any other settled one it is deleted and made anew."""
CANCELLED = "Resource creation cancelled"
"""The reason given for what never began because something else failed."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was found or made."""

    release: str
    changed: bool
    outputs: dict[str, str]


def deploy(endpoint: str, database: DatabaseSettings, *, repository: Path, migrated: bool) -> Deployment:
    """Bring the stack at this endpoint up to date with the repository; does nothing when it is already.

    The stack's own migration runs whenever the code changed, or when the database is not `migrated`.
    Raises `DeployFailed` with the reason of the resource that failed.
    """
    built = package.build(repository, bucket_url=f"{endpoint.rstrip('/')}/{BUCKET}")
    cloudformation = aws.client(endpoint, "cloudformation")
    name, secret = put_secret(endpoint, database)
    release = f"local-{_digest(built.digest, name)}"
    stack = _settled(cloudformation)
    if stack and stack["StackStatus"] in USABLE:
        current = parameter(stack, "Release")
        whole = stack["StackStatus"] != "UPDATE_ROLLBACK_COMPLETE" and not _reachable(endpoint, _link(stack))
        if migrated and current.startswith(release) and whole:
            return Deployment(current, changed=False, outputs=outputs(stack))
        if current.startswith(release):  # same code, new database: another release label runs the migration
            release = f"{release}-{int(time.time())}"
    elif stack:
        cloudformation.delete_stack(StackName=STACK_NAME)
        stack = _settled(cloudformation)
    _upload(endpoint, built)
    request = _request(endpoint, built, secret, release, parameter(stack, UNSUBSCRIBE) if stack else "")
    stack = _apply(cloudformation, request, new=not stack)
    if url := _reachable(endpoint, _link(stack)):
        stack = _apply(cloudformation, _request(endpoint, built, secret, release, url), new=False)
    return Deployment(release, changed=True, outputs=outputs(stack))


def put_secret(endpoint: str, database: DatabaseSettings) -> tuple[str, str]:
    """Store the database's address as RDS would; returns the secret's name and ARN.

    The name follows from the content, so that another database means another ARN: a changed environment is what
    makes warm functions start again and read it.
    """
    content = json.dumps(
        {
            "engine": "postgres",
            "username": database.user,
            "password": database.password or "",
            "host": database.host,
            "port": database.port,
            "dbname": database.database,
            **({} if database.tls else {"sslmode": "disable"}),
        }
    )
    secrets = aws.client(endpoint, "secretsmanager")
    name = f"{STACK_NAME}/database-{_digest(content)}"
    try:
        return name, secrets.create_secret(Name=name, SecretString=content)["ARN"]
    except secrets.exceptions.ResourceExistsException:
        return name, secrets.describe_secret(SecretId=name)["ARN"]


def describe(endpoint: str) -> dict[str, Any] | None:
    """The stack at this endpoint as CloudFormation describes it, or None."""
    return _describe(aws.client(endpoint, "cloudformation"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _upload(endpoint: str, built: package.Package) -> None:
    s3 = aws.client(endpoint, "s3")
    s3.create_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: s3.put_object(Bucket=BUCKET, Key=item[0], Body=item[1]), built.files.items()))


def _request(endpoint: str, built: package.Package, secret: str, release: str, unsubscribe_url: str) -> dict[str, Any]:
    values = {
        "Environment": "dev",
        "DatabaseSecretArn": secret,
        "Release": release,
        "MailSender": f"no-reply@{MAIL_DOMAIN}",
        "MailDomain": MAIL_DOMAIN,
        UNSUBSCRIBE: unsubscribe_url,
        "Tracing": "PassThrough",  # there is no X-Ray daemon here
    }
    return {
        "StackName": STACK_NAME,
        "TemplateURL": f"{endpoint.rstrip('/')}/{BUCKET}/{built.root_template}",
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        "Parameters": [
            {"ParameterKey": key, "ParameterValue": value} for key, value in values.items() if key in built.parameters
        ],
    }


def _apply(cloudformation: Any, request: dict[str, Any], *, new: bool) -> dict[str, Any]:
    """Create or update the stack. Raises `DeployFailed`."""
    try:
        cloudformation.create_stack(OnFailure="DO_NOTHING", **request) if new else cloudformation.update_stack(
            **request
        )
    except cloudformation.exceptions.ClientError as error:
        raise DeployFailed(f"CloudFormation refused template.yaml: {error.response['Error']['Message']}") from None
    stack = _settled(cloudformation)
    if stack is None or stack["StackStatus"] not in USABLE - {"UPDATE_ROLLBACK_COMPLETE"}:
        raise DeployFailed(_failure(cloudformation, stack))
    return stack


def _link(stack: dict[str, Any]) -> str:
    return outputs(stack).get(UNSUBSCRIBE, "")


def _reachable(endpoint: str, url: str) -> str | None:
    """Where the emulator answers for a function's URL on AWS, which leads nowhere from here; None for any other URL."""
    host = urlsplit(url).hostname or ""
    if not host.endswith(".on.aws"):
        return None
    return f"{endpoint.rstrip('/')}/_aws/lambda-url/{host.split('.')[0]}/"


def _describe(cloudformation: Any, name: str = STACK_NAME) -> dict[str, Any] | None:
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except cloudformation.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def _settled(cloudformation: Any) -> dict[str, Any] | None:
    """The stack once nothing is in progress, or None when there is none."""
    deadline = time.monotonic() + DEPLOY_TIMEOUT_SECONDS
    while True:
        stack = _describe(cloudformation)
        if stack is None or not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return stack
        if time.monotonic() > deadline:
            waiting = ", ".join(_unfinished(cloudformation)) or "nothing in particular"
            raise LocalError(
                f"CloudFormation is still busy with {waiting} after {DEPLOY_TIMEOUT_SECONDS} s: look at"
                " `duecourse logs migrate` and .duecourse/emulator.log, then `duecourse down` and `duecourse up`"
            )
        time.sleep(POLL_SECONDS)


def _unfinished(cloudformation: Any) -> list[str]:
    """Logical ids of the resources whose newest event says that they are in progress, except the stack itself."""
    newest: dict[str, str] = {}
    for event in cloudformation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]:  # newest first
        newest.setdefault(event["LogicalResourceId"], event["ResourceStatus"])
    return sorted(name for name, status in newest.items() if status.endswith("_IN_PROGRESS") and name != STACK_NAME)


def _failure(cloudformation: Any, stack: dict[str, Any] | None) -> str:
    """What went wrong first, in one sentence."""
    if stack is None:
        return "CloudFormation deleted the stack while it was being deployed: try `duecourse up` again"
    found = next(_failures(cloudformation, stack["StackId"]), None)
    where, reason = found or (STACK_NAME, stack.get("StackStatusReason") or stack["StackStatus"])
    hint = (
        "`duecourse logs migrate` shows its log"
        if where == "Migration"
        else "correct the template, then `duecourse up`"
    )
    return f"CloudFormation could not make {where} ({' '.join(reason.split())}): {hint}"


def _failures(cloudformation: Any, stack_id: str) -> Iterator[tuple[str, str]]:
    """Logical id and reason of each failed resource, oldest first; a nested stack's own before the stack's."""
    events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
    for event in reversed(events):
        failed = event["ResourceStatus"] in {"CREATE_FAILED", "UPDATE_FAILED"}
        physical = event.get("PhysicalResourceId") or ""
        if not failed or physical == stack_id or CANCELLED in event.get("ResourceStatusReason", ""):
            continue
        if event["ResourceType"] == "AWS::CloudFormation::Stack" and physical:
            yield from _failures(cloudformation, physical)
        yield event["LogicalResourceId"], event.get("ResourceStatusReason", "no reason given")


def parameter(stack: dict[str, Any], key: str) -> str:
    return next((p["ParameterValue"] for p in stack.get("Parameters", []) if p["ParameterKey"] == key), "")


def outputs(stack: dict[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
