"""Writes docs/openapi.json, the description of the management API; `--check` only compares."""

from __future__ import annotations

import json
import sys

from duecourse.lint_template import REPOSITORY
from functions.api.app import application
from functions.api.openapi import document

PATH = REPOSITORY / "docs" / "openapi.json"


def rendered() -> str:
    """The document as it is committed."""
    return json.dumps(document(application()), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write, or with `--check` say whether the file is what the code says."""
    wanted = rendered()
    if "--check" not in arguments:
        PATH.write_text(wanted)
        return 0
    if PATH.exists() and PATH.read_text() == wanted:
        return 0
    print("docs/openapi.json is not what the code says: run `python -m duecourse.openapi`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
