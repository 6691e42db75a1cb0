"""A handler with nothing of ours in it: the yardstick for a cold start. It uses each library of its event once."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs, urlsplit


def handler(event: Any, context: Any) -> None:
    del context
    for library in event["libraries"]:
        USES[library]()


def sqlalchemy_and_pg8000() -> None:
    """One statement in one transaction."""
    import pg8000.dbapi
    from sqlalchemy import create_engine, text

    url = urlsplit(os.environ["DATABASE_URL"])
    socket = parse_qs(url.query).get("host")
    place: dict[str, Any] = {"host": url.hostname, "port": url.port or 5432}
    if socket:
        place = {"unix_sock": f"{socket[0]}/.s.PGSQL.{url.port or 5432}", "ssl_context": False}

    def connect() -> Any:
        return pg8000.dbapi.connect(user=url.username, password=url.password, database=url.path.strip("/"), **place)

    with create_engine("postgresql+pg8000://", creator=connect).begin() as tx:
        tx.execute(text("SELECT count(*) FROM tenants")).one()


def alembic() -> None:
    """All that an upgrade imports; without one."""
    from alembic import command
    from alembic.config import Config

    assert callable(command.upgrade)
    Config()


def pydantic() -> None:
    """One model, one validation."""
    from pydantic import BaseModel

    class Body(BaseModel):
        id: str

    Body.model_validate({"id": "1"})


def powertools() -> None:
    """One metric and one line."""
    from aws_lambda_powertools import Logger
    from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

    metrics = EphemeralMetrics(namespace="Bare")
    metrics.add_metric("Invocations", MetricUnit.Count, 1)
    metrics.flush_metrics()
    Logger().info("done")


def http_api() -> None:
    """One route with a validated answer, one request."""
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
    from pydantic import BaseModel

    class Answer(BaseModel):
        ok: bool

    def route() -> Answer:
        return Answer(ok=True)

    route.__annotations__["return"] = Answer  # a class of this function's own cannot be found by its name
    app = APIGatewayHttpResolver(enable_validation=True)
    app.get("/")(route)
    http = {"method": "GET", "path": "/"}
    app.resolve({"rawPath": "/", "requestContext": {"stage": "$default", "http": http}}, None)  # type: ignore[arg-type]


def boto3_sqs() -> None:
    """One client, one message."""
    import boto3

    queue = os.environ["QUEUE_URL_PREFIX"] + "ses-events"
    boto3.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps({"id": 1}))


USES = {
    "sqlalchemy": sqlalchemy_and_pg8000,
    "alembic": alembic,
    "pydantic": pydantic,
    "powertools": powertools,
    "http_api": http_api,
    "boto3": boto3_sqs,
}
