"""docs/api.md says of each action what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from functions.api.app import application
from functions.pipeline.steer import FROM
from tests.contract.documents import read

API = Path("docs/api.md")


def _tables() -> list[list[str]]:
    lines = re.findall(r"^\| (.+) \|$", read(API), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_what_each_state_allows_is_told() -> None:
    told = {row[0]: set(re.findall(r"`(\w+)`", row[1])) for row in _tables() if row[0] in set(FROM)}
    assert told == {action: set(states) for action, states in FROM.items()}


def test_every_request_that_is_told_exists() -> None:
    told = {tuple(row[0].strip("`").split(" ", 1)) for row in _tables() if row[0].startswith(("`GET", "`POST"))}
    app = application()
    routes = {(route.method, route.openapi_path) for route in app._static_routes + app._dynamic_routes}
    every_action = {(method, path.replace("{action}", action)) for method, path in told for action in map(str, FROM)}
    assert every_action <= routes
