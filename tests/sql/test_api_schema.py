"""The whole API, asked hundreds of times for what its own description allows and for what it does not, as each role.

No answer is a 5xx, every answer is what the description says, and none holds a word of another tenant.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks
from sqlalchemy import Engine, text

from functions.api import auth
from functions.api.app import application
from functions.api.openapi import document
from functions.core.catalog import CATALOG
from tests.api import jobs_of, token
from tests.api_wsgi import wsgi
from tests.harness import Queues, new_tenant

pytestmark = pytest.mark.slow

CASES = 5
"""Of each operation, kind of data and role: hundreds in all."""
MARK = "zebra-4711"
"""Stands in every text of the other tenant."""
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
ROLES = ("nobody", "viewer", "operator", "admin", "scoped viewer", "scoped admin")


@pytest.mark.parametrize("who", ROLES)
def test_whatever_is_asked_the_answer_is_as_described(
    database: Engine, queues: Queues, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    if who != "nobody":  # wrong tokens are among the wrong data
        monkeypatch.setattr(auth, "FAILURES_PER_MINUTE", 1_000_000)
    with database.begin() as tx:
        own, other = new_tenant(tx), new_tenant(tx)
        jobs_of(tx, own, "own")
        jobs_of(tx, other, MARK)
        jobs = [{"queue": row.queue, "job_id": str(row.id)} for row in tx.execute(text("SELECT queue, id FROM jobs"))]
        scope = own if who.startswith("scoped") else None
        headers = {} if who == "nobody" else {"Authorization": f"Bearer {token(tx, who.rsplit(maxsplit=1)[-1], scope)}"}
    described = schemathesis.openapi.from_dict(document(application()))
    described.app = wsgi
    there = [*jobs, *({"queue": name} for name in CATALOG.queues), *({"name": name} for name in CATALOG.schedules)]
    seen: dict[int, int] = {}
    for found in described.get_all_operations():
        result: Any = found
        operation = result.ok()  # raises where the description is wrong
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            ask(operation, mode, there, headers, seen, forbidden=[MARK, str(other)] if scope or not headers else [])
    print(who, dict(sorted(seen.items())))
    assert sum(seen.values()) >= 100
    assert not {status for status in seen if status >= 500}, seen
    if who == "nobody":
        assert seen.keys() <= {200, 401, 429}, seen


def ask(
    operation: Any,
    mode: GenerationMode,
    there: list[dict[str, str]],
    headers: dict[str, str],
    seen: dict[int, int],
    *,
    forbidden: list[str],
) -> None:
    """Ask one operation several times; half of the time for what exists."""

    @settings(
        max_examples=CASES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def run(case: Any, data: st.DataObject) -> None:
        named = case.path_parameters or {}
        fitting = [row for row in there if row.keys() >= named.keys() - {"action"}]
        if named and fitting and data.draw(st.booleans()):
            named.update({name: value for name, value in data.draw(st.sampled_from(fitting)).items() if name in named})
        answer = case.call(headers=headers)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        case.validate_response(answer, checks=CHECKS)
        asked = str((case.path_parameters, case.query, case.body))
        assert not [word for word in forbidden if word in answer.text and word not in asked], answer.text

    with suppress(Unsatisfiable):  # nothing can be wrong with what takes no parameter
        run()
