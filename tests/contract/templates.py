"""The templates as CloudFormation would resolve them, for the few intrinsic functions that ours use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from duecourse.lint_template import REPOSITORY, parse, transformed

PREFIX = "firm"
PSEUDO = {
    "AWS::StackName": PREFIX,
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "123456789012",
}
QUEUE_ARN = "arn:aws:sqs:eu-central-1:123456789012:"
NESTED = {
    "Queues": "infra/queues.yaml",
    "Roles": "infra/roles.yaml",
    "Database": "infra/database.yaml",
    "Mail": "infra/mail.yaml",
    "Api": "infra/api.yaml",
    "Observability": "infra/observability.yaml",
}
NO_VALUE = object()


@dataclass(frozen=True)
class Template:
    """A template under certain parameters. `GetAtt` stays symbolic: `Queues.Outputs.QueueArns`."""

    body: Mapping[str, Any]
    given: Mapping[str, str] = field(default_factory=dict)

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Resolved properties of the resources of a type that these parameters create, by logical id."""
        return {
            name: self.resolve(resource.get("Properties", {}))
            for name, resource in self.body["Resources"].items()
            if resource["Type"] == kind and ("Condition" not in resource or self.condition(resource["Condition"]))
        }

    def outputs(self) -> dict[str, Any]:
        return {name: self.resolve(output["Value"]) for name, output in self.body["Outputs"].items()}

    def condition(self, name: str) -> bool:
        return bool(self.resolve(self.body["Conditions"][name]))

    def parameter(self, name: str) -> Any:
        declared = self.body["Parameters"][name]
        value = self.given.get(name, declared.get("Default", ""))
        return str(value).split(",") if declared["Type"] == "CommaDelimitedList" else value

    def resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            return [item for item in map(self.resolve, node) if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(function, argument)] = node.items()
            if function in {"Ref", "Condition"} or function.startswith("Fn::"):
                return self._call(function, argument)
        return {key: value for key, item in node.items() if (value := self.resolve(item)) is not NO_VALUE}

    def _call(self, function: str, argument: Any) -> Any:  # noqa: PLR0911 - one return for each function of CloudFormation
        match function, argument:
            case "Ref", "AWS::NoValue":
                return NO_VALUE
            case "Ref", str(name):
                return self._ref(name)
            case "Condition", str(name):
                return self.condition(name)
            case "Fn::GetAtt", _:
                return ".".join(argument) if isinstance(argument, list) else argument
            case "Fn::Sub", str(text):
                return re.sub(r"\$\{([\w:]+)\}", lambda match: str(self._ref(match[1])), text)
            case "Fn::If", [str(name), chosen, other]:
                return self.resolve(chosen if self.condition(name) else other)
            case "Fn::Equals", [left, right]:
                return self.resolve(left) == self.resolve(right)
            case "Fn::Not", [condition]:
                return not self.resolve(condition)
            case "Fn::Or", list(conditions):
                return any(map(self.resolve, conditions))
            case "Fn::Join", [str(separator), parts]:
                return separator.join(self.resolve(parts))
            case "Fn::Split", [str(separator), text]:
                return self.resolve(text).split(separator)
            case "Fn::FindInMap", [name, first, second]:
                return self.body["Mappings"][name][self.resolve(first)][self.resolve(second)]
        return {function: argument}

    def _ref(self, name: str) -> Any:
        if name in self.body.get("Parameters", {}):
            return self.parameter(name)
        return PSEUDO.get(name, name)


@cache
def root(**given: str) -> Template:
    """The root template after SAM's transform; by default with an existing database, outside a VPC."""
    return Template(transformed(), {"DatabaseSecretArn": "arn:of:secret", **given})


def queues() -> Template:
    return nested(NESTED["Queues"], Prefix=PREFIX)


def mail(**given: str) -> Template:
    return nested(NESTED["Mail"], Prefix=PREFIX, **given)


def roles(**given: str) -> Template:
    """infra/roles.yaml with what the root gives it, the outputs of infra/queues.yaml among that."""
    passed = root().resources("AWS::CloudFormation::Stack")["Roles"]["Parameters"]
    outputs = {f"Queues.Outputs.{name}": value for name, value in queues().outputs().items()}
    return nested(NESTED["Roles"], **{name: outputs.get(value, value) for name, value in passed.items()} | given)


def nested(path: str | Path, **given: str) -> Template:
    return Template(parse(REPOSITORY / path), given)
