"""Calls the management API's handler with the events that API Gateway makes of requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from duecourse.local.delivery import Context
from functions.api import app
from functions.api.identity import new_token, token_hash
from functions.core.job import JobRequest
from tests.harness import order

SOURCE = "203.0.113.7"
PREFIX = "https://sqs.eu-central-1.amazonaws.com/123456789012/duecourse-prod-"

INSERT_TOKEN = text("""
    INSERT INTO api_tokens (name, token_hash, role, tenant_id, created_by)
    VALUES (:name, :hash, :role, :tenant_id, 'tests')
""")


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


Ask = Callable[..., Answer]


def token(tx: Connection, role: str = "admin", tenant_id: UUID | None = None) -> str:
    """A new token with this role and scope."""
    made = new_token()
    values = {"name": f"tests-{role}", "hash": token_hash(made), "role": role, "tenant_id": tenant_id}
    tx.execute(INSERT_TOKEN, values)
    return made


def jobs_of(tx: Connection, tenant_id: UUID, note: str) -> None:
    """Jobs of a tenant in several queues and states, their texts marked."""
    tx.execute(
        text("""
            SELECT enqueue_job(t.type, jsonb_build_object('note', CAST(:note AS text)), tenant_id => :tenant_id,
                               dedup_key => :note || n, correlation_id => :note)
            FROM unnest(ARRAY['upkeep.probe', 'compliance.refresh']) AS t(type), generate_series(1, 5) AS n
        """),
        {"tenant_id": tenant_id, "note": note},
    )
    tx.execute(
        text("""
            UPDATE jobs SET state = 'active', runs = 1, started_at = now(), claim_token = id, lease_until = now()
            WHERE tenant_id = :tenant_id AND type = 'upkeep.probe'
        """),
        {"tenant_id": tenant_id},
    )
    tx.execute(
        text("""
            UPDATE jobs SET state = 'dead', died_at = now(), error_class = 'ProbeFailed', error = :note,
                outbox_at = NULL, claim_token = NULL, lease_until = NULL
            WHERE tenant_id = :tenant_id AND type = 'upkeep.probe'
        """),
        {"tenant_id": tenant_id, "note": note},
    )
    tx.execute(
        text("""
            INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error, traceback, started_at)
            SELECT id, 1, 'failed', true, 'ProbeFailed', :note, :note, now() FROM jobs
            WHERE tenant_id = :tenant_id AND state = 'dead'
        """),
        {"tenant_id": tenant_id, "note": note},
    )


def call(
    method: str,
    path: str,
    *,
    token: str | None = None,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    source: str = SOURCE,
) -> Answer:
    """Send a request. `path` may carry a query string of its own; a `body` that is no text is sent as JSON."""
    path, _, raw = path.partition("?")
    sent = event(method, path, token=token, query=query, raw=raw, body=body, headers=headers, source=source)
    answer = app.handler(sent, Context())
    found = answer.get("body") or ""
    content = base64.b64decode(found).decode() if answer.get("isBase64Encoded") else found
    return Answer(answer["statusCode"], {k.lower(): v for k, v in answer["headers"].items()}, content)


def event(
    method: str,
    path: str,
    *,
    token: str | None = None,
    query: Mapping[str, Any] | None = None,
    raw: str = "",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    source: str = SOURCE,
) -> dict[str, Any]:
    """The event of a request, payload format 2.0; the query as values, or `raw` as it stands in a URL.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """
    raw = raw or urlencode(query or {}, doseq=True, quote_via=quote)
    parameters: dict[str, list[str]] = parse_qs(raw, keep_blank_values=True)
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": raw,
        "headers": sent,
        "requestContext": {
            "stage": "$default",
            "requestId": "a-request",
            "http": {"method": method, "path": path, "sourceIp": source, "protocol": "HTTP/1.1"},
        },
        "isBase64Encoded": False,
    }
    if parameters:
        made["queryStringParameters"] = {name: ",".join(values) for name, values in parameters.items()}
    if body is not None:
        made["body"] = body if isinstance(body, str) else json.dumps(body)
        sent.setdefault("content-type", "application/json")
    return made


def ordered(database: Engine, *requests: JobRequest) -> list[UUID]:
    with database.begin() as tx:
        return order(tx, *requests)


def probes(count: int, **options: Any) -> list[JobRequest]:
    return [JobRequest("upkeep.probe", {"note": f"n{n}"}, **options) for n in range(count)]


def execute(database: Engine, statement: str, **values: Any) -> None:
    with database.begin() as tx:
        tx.execute(text(statement), values)


def ids_of(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.text
    return [item["id"] for item in answer.json["items"]]


def die(database: Engine, ids: list[UUID], error_class: str = "Timeout") -> None:
    execute(
        database,
        "UPDATE jobs SET state = 'active', claim_token = id, runs = 1, started_at = now() WHERE id = ANY(:ids)",
        ids=ids,
    )
    execute(
        database,
        "UPDATE jobs SET state = 'dead', claim_token = NULL, died_at = now(), error_class = :error, outbox_at = NULL,"
        " error = 'no answer for ada@example.com' WHERE id = ANY(:ids)",
        ids=ids,
        error=error_class,
    )
