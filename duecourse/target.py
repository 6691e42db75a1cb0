"""What `--target` names: the stack on this machine, a stack on AWS, or an API by its address."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from duecourse.target_options import LOCAL
from functions.core.errors import DuecourseError

if TYPE_CHECKING:
    from duecourse.api import Api

TOKEN_VARIABLE = "DUECOURSE_TOKEN"  # noqa: S105 - a variable's name
CONNECT_SECONDS = 5
READ_SECONDS = 30


class TargetError(DuecourseError):
    """What `--target` names is not there, or cannot be used as it is."""


@dataclass(frozen=True)
class Deployment:
    """A deployed stack: its name, what CloudFormation says of it, and clients of its AWS account."""

    name: str
    description: Mapping[str, Any]
    """As CloudFormation describes the stack."""
    make_client: Callable[[str], Any]
    api_url: str | None = None
    token: str | None = field(default=None, repr=False)

    def client(self, service: str) -> Any:
        """A boto3 client."""
        return self.make_client(service)

    @property
    def outputs(self) -> dict[str, str]:
        return {output["OutputKey"]: output["OutputValue"] for output in self.description.get("Outputs", ())}

    @property
    def parameters(self) -> dict[str, str]:
        return {given["ParameterKey"]: given["ParameterValue"] for given in self.description.get("Parameters", ())}

    def api(self) -> Api:
        """The management API. Raises `TargetError` when there is no address or no token."""
        from duecourse.api import Api

        if not self.api_url:
            raise TargetError(f"the stack {self.name} has no output ApiUrl: deploy the current template")
        if not self.token:
            raise TargetError(
                f"no token: `duecourse token create NAME --target {self.name}` makes one; put it into {TOKEN_VARIABLE}"
            )
        return Api(self.api_url, self.token)


def api(target: str, *, profile: str | None = None) -> Api:
    """The management API of a target. Raises `TargetError` naming what is missing."""
    from duecourse.api import Api

    if not target.startswith(("http://", "https://")):
        return deployment(target, profile=profile).api()
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise TargetError(f"no token for {target}: put it into the variable {TOKEN_VARIABLE}")
    return Api(target, token)


def deployment(target: str, *, profile: str | None = None) -> Deployment:
    """The stack of a target. Raises `TargetError` where there is none, or the target is only an address."""
    if target.startswith(("http://", "https://")):
        raise TargetError("this looks at the stack itself: name it, as `--target local` or `--target duecourse-prod`")
    return _local() if target == LOCAL else _on_aws(target, profile)


def _local() -> Deployment:
    from duecourse.local import api_token, deploy, stack
    from duecourse.local.errors import NotRunning
    from duecourse.local.state import default_home

    home = default_home()
    endpoint = stack.current_endpoint(home)
    found = deploy.describe(endpoint)
    if found is None:
        raise NotRunning(f"nothing is deployed at {endpoint}: run `duecourse up`")
    running = stack.Stack(endpoint, "", deploy.outputs(found))
    return Deployment(
        deploy.STACK_NAME,
        found,
        cache(running.client),
        api_url=running.api_url,
        token=api_token.read(home),
    )


def _on_aws(name: str, profile: str | None) -> Deployment:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        make_client = _clients(profile)
        [found] = make_client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        message = error.response["Error"].get("Message", str(error))
        raise TargetError(
            f"{os.environ.get('AWS_ENDPOINT_URL') or 'AWS'} does not show the stack {name} ({message}): check its name,"
            " the region, the profile, and AWS_ENDPOINT_URL"
        ) from None
    except BotoCoreError as error:
        raise TargetError(f"AWS cannot be asked ({error}): name a profile with --profile, or set AWS_PROFILE") from None
    made = Deployment(name, found, make_client, token=os.environ.get(TOKEN_VARIABLE))
    return replace(made, api_url=made.outputs.get("ApiUrl"))


def _clients(profile: str | None) -> Callable[[str], Any]:
    import boto3
    from botocore.config import Config

    session: Any = boto3.Session(profile_name=profile)
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"mode": "standard"})

    @cache
    def client(service: str) -> Any:
        return session.client(service, config=config)

    return client
