"""Lints what CloudFormation will really receive: template.yaml after SAM's transform, and the nested templates.

cfn-lint by itself sees the SAM template only, where roles, event source mappings and rules do not exist yet. The
transform runs here, without an AWS account. `make check` and tests/contract use it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

REPOSITORY = Path(__file__).parents[1]
TEMPLATE = REPOSITORY / "template.yaml"
NESTED = tuple(sorted((REPOSITORY / "infra").glob("*.yaml")))
REGION = "us-east-1"
LOCAL_CODE = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}
"""Properties whose local path `sam package` replaces by an address in S3; the transform takes only such ones."""


class NoManagedPolicies:
    """Stands for the list of AWS's managed policies, which SAM fetches from an account: no role of ours has one."""

    def load(self) -> dict[str, str]:
        return {}


def parse(path: Path) -> dict[str, Any]:
    """A template as CloudFormation reads it: `!Ref x` as `{"Ref": "x"}`."""
    template: dict[str, Any] = yaml_parse(path.read_text())
    return template


def transformed(path: Path = TEMPLATE) -> dict[str, Any]:
    """A SAM template turned into plain CloudFormation, its code at an invented address.

    Raises samtranslator's `InvalidDocumentException` when SAM refuses the template.
    """
    template = parse(path)
    template.get("Globals", {}).get("Function", {}).pop("CodeUri", None)
    for resource in template["Resources"].values():
        if uri := LOCAL_CODE.get(resource["Type"]):
            resource["Properties"][uri] = "s3://bucket/key"
    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    # It warns of a feature file that only the service itself has.
    logging.getLogger("samtranslator.feature_toggle.feature_toggle").setLevel(logging.ERROR)
    result: dict[str, Any] = transform(template, {}, NoManagedPolicies())
    return result


def findings() -> Iterator[str]:
    """What cfn-lint says of the transformed template and of every nested one, a line each."""
    from cfnlint import ManualArgs, lint

    config = ManualArgs(regions=[REGION], ignore_checks=["W3002"])  # W3002: `sam package` uploads the nested templates
    templates = {f"{TEMPLATE.name}, transformed": json.dumps(transformed(), indent=1, default=str)}
    templates |= {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in NESTED}
    for name, text in templates.items():
        for match in lint(text, config=config):
            where = "/".join(str(part) for part in match.path or ()) or f"line {match.linenumber}"
            yield f"{name}: {where}: {match.rule.id} {match.message}"


def main() -> int:
    """Print the findings; the exit status is 1 when there are any."""
    found = list(findings())
    print("\n".join(found) or f"cfn-lint: {1 + len(NESTED)} templates, nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
