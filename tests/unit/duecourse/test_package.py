"""What is deployed: deterministic, our own code only, every reference rewritten."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from duecourse.local.errors import LocalError
from duecourse.local.package import Package, build

BUCKET_URL = "http://127.0.0.1:4566/artifacts"

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Release: {Type: String}
Globals:
  Function: {CodeUri: functions, Timeout: 60}
Resources:
  Queues:
    Type: AWS::CloudFormation::Stack
    Properties: {TemplateURL: infra/queues.yaml}
  Relay:
    Type: AWS::Serverless::Function
    Properties:
      Handler: functions.relay.handler
      Environment: {Variables: {PREFIX: !GetAtt Queues.Outputs.Prefix}}
  Layer:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: .}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {
        "template.yaml": TEMPLATE,
        "infra/queues.yaml": "Outputs: {Prefix: {Value: !Sub '${AWS::StackName}-'}}",
        "infra/migrations/env.py": "",
        "functions/relay.py": "def handler(event, context): ...",
        "functions/__pycache__/relay.cpython-311.pyc": "stale",
        "functions/.hidden": "no",
        "duecourse/cli.py": "not for Lambda",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def root_template(package: Package) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(package.files[package.root_template])
    return found


def properties(package: Package, resource: str) -> dict[str, Any]:
    found: dict[str, Any] = root_template(package)["Resources"][resource]["Properties"]
    return found


def stored(package: Package, uri: str) -> bytes:
    return package.files[uri.rsplit("/", 1)[1]]


def test_the_code_zip_holds_our_sources_and_nothing_else(repository: Path) -> None:
    package = build(repository, bucket_url=BUCKET_URL)
    uri = properties(package, "Relay")["CodeUri"]
    assert uri.startswith("s3://artifacts/")
    with zipfile.ZipFile(io.BytesIO(stored(package, uri))) as archive:
        assert archive.namelist() == ["functions/relay.py", "infra/migrations/env.py"]


def test_the_layer_is_empty(repository: Path) -> None:
    package = build(repository, bucket_url=BUCKET_URL)
    with zipfile.ZipFile(io.BytesIO(stored(package, properties(package, "Layer")["ContentUri"]))) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".py")]


def test_nested_templates_are_stored_and_named_by_url(repository: Path) -> None:
    package = build(repository, bucket_url=BUCKET_URL)
    url = properties(package, "Queues")["TemplateURL"]
    assert url.startswith(f"{BUCKET_URL}/")
    assert json.loads(stored(package, url)) == {"Outputs": {"Prefix": {"Value": {"Fn::Sub": "${AWS::StackName}-"}}}}


def test_intrinsic_functions_survive(repository: Path) -> None:
    package = build(repository, bucket_url=BUCKET_URL)
    variables = properties(package, "Relay")["Environment"]["Variables"]
    assert variables == {"PREFIX": {"Fn::GetAtt": ["Queues", "Outputs.Prefix"]}}
    assert package.parameters == {"Release"}


def test_the_same_sources_give_the_same_bytes(repository: Path) -> None:
    first = build(repository, bucket_url=BUCKET_URL)
    os.utime(repository / "functions/relay.py", (0, 0))
    (repository / "functions/relay.py").chmod(0o755)
    assert build(repository, bucket_url=BUCKET_URL) == first


@pytest.mark.parametrize("name", ["functions/relay.py", "infra/queues.yaml", "infra/migrations/env.py"])
def test_a_change_anywhere_changes_the_digest(repository: Path, name: str) -> None:
    before = build(repository, bucket_url=BUCKET_URL).digest
    with (repository / name).open("a") as file:
        file.write("\n# changed\nadded: 1\n" if name.endswith(".yaml") else "\n# changed\n")
    assert build(repository, bucket_url=BUCKET_URL).digest != before


def test_a_missing_template_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"template\.yaml is missing: run duecourse from a clone"):
        build(tmp_path, bucket_url=BUCKET_URL)


def test_broken_yaml_is_one_sentence(repository: Path) -> None:
    (repository / "template.yaml").write_text("Resources: [")
    with pytest.raises(LocalError, match=r"template\.yaml is not valid YAML: [^\n]+$"):
        build(repository, bucket_url=BUCKET_URL)
