"""Whatever is sent, the answer is a problem document with the reason, and never a 500."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from sqlalchemy import Engine, text

from duecourse.local.delivery import Context
from functions.api import app, paging
from functions.api.audit import ROWS_LOOKED_AT
from functions.api.models import ProblemDetails
from functions.api.problems import CONTENT_TYPE, Problem
from tests.api import Answer, call, event, token


@pytest.fixture
def admin(database: Engine) -> str:
    with database.begin() as tx:
        return token(tx, "admin")


def problem(answer: Answer, status: int) -> ProblemDetails:
    assert (answer.status, answer.headers["content-type"]) == (status, CONTENT_TYPE), answer.text
    found = ProblemDetails.model_validate_json(answer.text)
    assert found.status == status
    return found


def test_liveness_needs_no_token_and_asks_the_database(database: Engine) -> None:
    answer = call("GET", "/health")
    assert answer.status == 200
    assert answer.json.keys() == {"status", "database_time"}


@pytest.mark.parametrize("path", ["/", "/nothing", "/audit/", "/audit/1", "/health/", "//", "/%2e%2e/health", "/é"])
def test_a_path_that_is_not_there(admin: str, path: str) -> None:
    assert problem(call("GET", path, token=admin), 404).instance == path


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", ""])
def test_a_method_that_is_not_there(admin: str, method: str) -> None:
    answer = call(method, "/audit", token=admin)
    problem(answer, 405)
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ({"limit": "0"}, "query.limit"),
        ({"limit": "201"}, "query.limit"),
        ({"limit": "many"}, "query.limit"),
        ({"limit": ["1", "2"]}, "query.limit"),
        ({"limit": "9" * 5000}, "query.limit"),
        ({"tenant_id": "1"}, "query.tenant_id"),
        ({"since": "yesterday"}, "query.since"),
        ({"since": "2026-11-24T08:00:00"}, "query.since"),
        ({"actor": ""}, "query.actor"),
        ({"actor": "x" * 501}, "query.actor"),
        ({"actr": "ana"}, "query.actr"),
        ({"cursor": "x"}, "query.cursor"),
        ({"cursor": "é"}, "query.cursor"),
        ({"cursor": base64.urlsafe_b64encode(b'["x", 1]').decode()}, "query.cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"[" * 700).decode()}, "query.cursor"),
    ],
    ids=str,
)
def test_a_parameter_that_is_wrong_is_named(admin: str, query: dict[str, Any], location: str) -> None:
    found = problem(call("GET", "/audit", token=admin, query=query), 422)
    assert [error.location for error in found.errors] == [location]
    assert found.errors[0].reason


@pytest.mark.parametrize("query", [{"actor": "a\x00b"}, {"a\x00b": "x"}, {"actor": "a\ud800b"}], ids=repr)
def test_a_character_that_postgresql_cannot_hold(admin: str, query: dict[str, str]) -> None:
    sent = event("GET", "/audit", token=admin) | {"queryStringParameters": query}
    assert app.handler(sent, Context())["statusCode"] == 400


def test_sql_in_a_filter_is_text(admin: str, observer: Engine) -> None:
    answer = call("GET", "/audit", token=admin, query={"actor": "' OR true; DROP TABLE operator_actions; --, x"})
    assert (answer.status, answer.json) == (200, {"items": [], "next_cursor": None})
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT to_regclass('operator_actions') IS NOT NULL"))


def test_pages_follow_one_another_and_a_cursor_is_bound_to_its_filters(admin: str, observer: Engine) -> None:
    with observer.begin() as tx:
        tx.execute(
            text("""
                INSERT INTO operator_actions (actor, role, action, target, result)
                SELECT 'ana, the operator', 'admin', 'job.pause', 'jobs/email/' || n, 'done'
                FROM generate_series(1, 5) n
            """)
        )
    query: dict[str, Any] = {"actor": "ana, the operator", "limit": 2}
    targets: list[str] = []
    while True:
        page = call("GET", "/audit", token=admin, query=query).json
        targets += [item["target"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert targets == [f"jobs/email/{n}" for n in (5, 4, 3, 2, 1)]
    found = problem(call("GET", "/audit", token=admin, query={"cursor": query["cursor"]}), 422)
    assert "another query" in found.errors[0].reason


def test_a_rare_filter_is_searched_in_parts(admin: str, observer: Engine) -> None:
    with observer.begin() as tx:
        tx.execute(
            text("""
                INSERT INTO operator_actions (actor, role, action, target, result)
                SELECT 'ana', 'admin', CASE n WHEN 1 THEN 'rare' ELSE 'common' END, 'x', 'done'
                FROM generate_series(1, CAST(:rows AS integer)) AS n
            """),
            {"rows": ROWS_LOOKED_AT + 10},
        )
    first = call("GET", "/audit", token=admin, query={"action": "rare"}).json
    assert first["items"] == []
    second = call("GET", "/audit", token=admin, query={"action": "rare", "cursor": first["next_cursor"]}).json
    assert [item["action"] for item in second["items"]] == ["rare"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '"x"', "null", "1e999", "NaN", "[" * 100_000, "1" * 5000, '{"a": "\\u0000"}']
)
def test_a_body_that_cannot_be_read_is_a_problem_and_no_error_of_ours(body: str) -> None:
    from functions.api.requests import read_json

    with pytest.raises(Problem) as raised:
        read_json(body)
    assert raised.value.status in {400, 422}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, "x", 415),
        ({"content-type": "multipart/form-data"}, "x", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "a=b", 415),
        ({"content-type": "application/json; charset=utf-8"}, "{}", 405),
    ],
    ids=str,
)
def test_a_body_is_json_or_refused(admin: str, headers: dict[str, str], body: str, status: int) -> None:
    problem(call("POST", "/audit", token=admin, headers=headers, body=body), status)


@pytest.mark.parametrize("body", ["!", base64.b64encode(b"\xff\xfe").decode()])
def test_a_binary_body_is_utf_8_or_refused(admin: str, body: str) -> None:
    sent = event("POST", "/audit", token=admin, body=body) | {"isBase64Encoded": True}
    assert app.handler(sent, Context())["statusCode"] == 400


def test_an_error_of_ours_says_nothing_of_itself(
    admin: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(paging, "decode", lambda *_: 1 / 0)
    found = problem(call("GET", "/audit", token=admin), 500)
    assert "ZeroDivision" not in json.dumps(found.model_dump())
    assert found.detail.endswith("X-Request-Id")
    assert "ZeroDivisionError" in str([record.__dict__ for record in caplog.records])
    assert call("GET", "/health").headers["x-request-id"] == "a-request"
