"""docs/openapi.json is what the code says, and says everything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from duecourse import openapi
from functions.api.app import PUBLIC, ROUTERS, application
from functions.api.openapi import document
from functions.api.problems import CONTENT_TYPE

AUDITED = {
    ("get", "/health/queues"),
    ("get", "/jobs/{queue}"),
    ("get", "/jobs/{queue}/{job_id}"),
    ("post", "/jobs/{queue}/{job_id}/pause"),
    ("post", "/jobs/{queue}/{job_id}/resume"),
    ("post", "/jobs/{queue}/{job_id}/retry"),
    ("post", "/jobs/{queue}/{job_id}/remove"),
    ("get", "/metrics"),
}
"""What an operator cannot do without."""

DESCRIBED = document(application())
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (method, path): operation for path, methods in DESCRIBED["paths"].items() for method, operation in methods.items()
}
EACH = pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=str)


def resolved(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer
    for part in answer.get("$ref", "").split("/")[1:]:
        found = DESCRIBED[part] if part == "components" else found[part]
    return found


def test_the_committed_document_is_up_to_date() -> None:
    assert openapi.PATH.read_text() == openapi.rendered(), "run `python -m duecourse.openapi`"


def test_a_stale_document_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "PATH", tmp_path / "openapi.json")
    assert openapi.main(["--check"]) == 1
    assert openapi.main([]) == 0
    assert openapi.main(["--check"]) == 0
    assert json.loads(openapi.PATH.read_text())["openapi"] == "3.1.0"


def test_what_operators_cannot_do_without_is_there() -> None:
    assert OPERATIONS.keys() >= AUDITED


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))


@EACH
def test_an_operation_is_described_with_every_answer(method: str, path: str) -> None:
    operation = OPERATIONS[method, path]
    assert operation["summary"]
    assert operation["description"].endswith((".", "…"))
    answers = {int(status): resolved(answer) for status, answer in operation["responses"].items()}
    assert min(answers) < 300
    for status, answer in answers.items():
        assert answer["description"]
        assert (CONTENT_TYPE in answer["content"]) == (status >= 400)
        assert all(content["schema"] for content in answer["content"].values())


@EACH
def test_what_needs_no_token_says_so_and_nothing_else_does(method: str, path: str) -> None:
    assert (OPERATIONS[method, path].get("security") == []) == ((method.upper(), path) in PUBLIC)
    assert ("401" in OPERATIONS[method, path]["responses"]) == ((method.upper(), path) not in PUBLIC)


def test_a_path_is_served_by_the_modules_of_its_first_part() -> None:
    for _, path in OPERATIONS:
        assert path.split("/")[1] in ROUTERS
