"""What a deployment consists of: one zip of our own code, an empty dependency layer, and the templates.

Functions find their libraries in the environment that runs the emulator, so that a cold start unpacks no
dependencies. The same sources give the same bytes, and every file is stored under the hash of its content.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duecourse.local.errors import LocalError

CODE_DIRECTORIES = ("functions", "infra/migrations")
SOURCE_SUFFIXES = {".py", ".pem", ".mako", ".sql", ".html", ".txt", ".j2", ".toml"}
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: the sources' own times must not change the bytes."""


@dataclass(frozen=True, slots=True)
class Package:
    """Files to store, by key, and the key of the root template among them."""

    files: dict[str, bytes]
    root_template: str
    parameters: frozenset[str]
    """Parameters that the root template declares."""

    @property
    def digest(self) -> str:
        """Changes when, and only when, what is deployed changes."""
        return _hash(self.root_template.encode())[:12]


def build(repository: Path, *, bucket_url: str) -> Package:
    """Package the repository's template and code for a bucket at this path-style URL (`http://host:port/bucket`).

    Raises `LocalError` when a template is missing or cannot be read.
    """
    files: dict[str, bytes] = {}
    code = _store(files, _code_zip(repository), ".zip")
    layer = _store(files, _zip({"python/README": b"libraries come from the emulator's environment\n"}), ".zip")
    template = _read(repository / "template.yaml")
    bucket = bucket_url.rsplit("/", 1)[1]
    _rewrite(template, code=f"s3://{bucket}/{code}", layer=f"s3://{bucket}/{layer}")
    for resource in _resources(template, "AWS::CloudFormation::Stack"):
        nested = _read(repository / resource["TemplateURL"])
        resource["TemplateURL"] = f"{bucket_url}/{_store(files, _dump(nested), '.json')}"
    return Package(files, _store(files, _dump(template), ".json"), frozenset(template.get("Parameters", {})))


def _rewrite(template: dict[str, Any], *, code: str, layer: str) -> None:
    """Point every function at the one code zip and every layer at the empty one, as `sam package` would."""
    defaults = template.get("Globals", {}).get("Function", {})
    defaults.pop("CodeUri", None)
    for resource in _resources(template, "AWS::Serverless::Function"):
        resource["CodeUri"] = code
    for resource in _resources(template, "AWS::Serverless::LayerVersion"):
        resource["ContentUri"] = layer


def _resources(template: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        resource.setdefault("Properties", {})
        for resource in template.get("Resources", {}).values()
        if resource.get("Type") == kind
    ]


def _read(path: Path) -> dict[str, Any]:
    import yaml
    from samtranslator.yaml_helper import yaml_parse  # understands !Ref, !Sub and their like

    try:
        template: dict[str, Any] = yaml_parse(path.read_text())
    except FileNotFoundError:
        raise LocalError(f"{path} is missing: run duecourse from a clone of its repository") from None
    except yaml.YAMLError as error:
        raise LocalError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return template


def _dump(template: dict[str, Any]) -> bytes:
    return json.dumps(template, indent=1, sort_keys=True, default=str).encode()


def _code_zip(repository: Path) -> bytes:
    members = {
        path.relative_to(repository).as_posix(): path.read_bytes()
        for directory in CODE_DIRECTORIES
        for path in (repository / directory).rglob("*")
        if path.suffix in SOURCE_SUFFIXES and path.is_file()
    }
    return _zip(members)


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, FIXED_TIME)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name])
    return buffer.getvalue()


def _store(files: dict[str, bytes], content: bytes, suffix: str) -> str:
    key = _hash(content) + suffix
    files[key] = content
    return key


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
