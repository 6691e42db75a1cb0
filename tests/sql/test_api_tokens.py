"""The function `tokens`, and the record of what operators did."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from functions.api.actions import record
from functions.api.identity import Caller, Role
from functions.api.tokens import TokenError, handler
from functions.core.errors import BadEvent
from functions.db.engine import sqlstate
from tests.api import call
from tests.harness import new_tenant

INSUFFICIENT_PRIVILEGE = "42501"


def tokens(action: str, **members: Any) -> dict[str, Any]:
    return handler({"action": action, **members}, None)


def create(name: str = "ana", role: str = "operator", **members: Any) -> dict[str, Any]:
    return tokens("create", name=name, role=role, by="bea", **members)


def test_a_token_is_made_used_listed_and_revoked(database: Engine) -> None:
    made = create()
    assert call("GET", "/audit", token=made["token"]).status == 200
    [listed] = tokens("list")["items"]
    assert listed["last_used_at"] is not None
    assert listed.items() >= {"name": "ana", "role": "operator", "created_by": "bea", "revoked_at": None}.items()
    assert made["token"] not in str(tokens("list"))
    assert tokens("revoke", name="ana", by="bea")["revoked_at"] is not None
    assert call("GET", "/audit", token=made["token"]).status == 401


def test_a_token_can_expire_and_have_a_tenant(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
    made = create(days=30, tenant_id=str(tenant))
    assert made["tenant_id"] == str(tenant)
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT expires_at - created_at BETWEEN '29 days' AND '31 days' FROM api_tokens"))


def test_a_name_is_free_again_once_its_token_has_ended(database: Engine, observer: Engine) -> None:
    create()
    with pytest.raises(TokenError, match="there is a token named ana already"):
        create()
    tokens("revoke", name="ana", by="bea")
    create()
    with observer.begin() as tx:
        tx.execute(text("UPDATE api_tokens SET expires_at = now() - interval '1 day'"))
    create()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({}, "action"),
        ({"action": "delete"}, "action"),
        (None, "no order"),
        ({"action": "create", "name": "ana", "by": "bea"}, "role"),
        ({"action": "create", "name": "ana", "role": "root", "by": "bea"}, "role"),
        ({"action": "create", "name": "a b", "role": "viewer", "by": "bea"}, "name"),
        ({"action": "create", "name": "ana", "role": "viewer", "by": "bea", "days": 0}, "days"),
        ({"action": "create", "name": "ana", "role": "viewer", "by": "bea", "tenant": "x"}, "tenant"),
        ({"action": "revoke", "name": "ana"}, "by"),
    ],
)
def test_an_order_that_is_wrong_is_refused_with_the_reason(event: Any, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        handler(event, None)


def test_what_is_not_there_cannot_be_revoked_or_given_out(database: Engine) -> None:
    with pytest.raises(TokenError, match="no token named ana"):
        tokens("revoke", name="ana", by="bea")
    with pytest.raises(TokenError, match="no tenant"):
        create(tenant_id=str(uuid4()))


def test_giving_out_and_revoking_are_on_record_without_the_token(database: Engine, observer: Engine) -> None:
    made = create()
    tokens("revoke", name="ana", by="carl")
    with observer.begin() as tx:
        rows = tx.execute(text("SELECT actor, action, target, before, after FROM operator_actions ORDER BY id")).all()
    assert [(row.actor, row.action, row.target) for row in rows] == [
        ("bea", "token.create", "tokens/ana"),
        ("carl", "token.revoke", "tokens/ana"),
    ]
    assert rows[0].before is None
    assert (rows[1].before["revoked_at"], bool(rows[1].after["revoked_at"])) == (None, True)
    assert made["token"] not in str(rows)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operator_actions SET actor = 'nobody'",
        "UPDATE operator_actions SET result = 'undone' WHERE false",
        "DELETE FROM operator_actions",
        "TRUNCATE operator_actions",
    ],
)
def test_the_database_refuses_to_change_the_record(database: Engine, observer: Engine, statement: str) -> None:
    with database.begin() as tx:
        record(tx, Caller(None, "ana", Role.ADMIN), action="job.pause", target="jobs/email/1", result="done")
    with pytest.raises(DBAPIError) as refused, observer.begin() as tx:
        tx.execute(text(statement))
    assert sqlstate(refused.value) == INSUFFICIENT_PRIVILEGE
    with observer.begin() as tx:
        assert tx.execute(text("SELECT actor, result FROM operator_actions")).all() == [("ana", "done")]


def test_an_action_that_is_rolled_back_leaves_no_record(database: Engine, observer: Engine) -> None:
    with database.connect() as tx, tx.begin() as change:
        record(tx, Caller(None, "ana", Role.ADMIN), action="job.pause", target="jobs/email/1", result="done")
        change.rollback()
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT count(*) FROM operator_actions")) == 0


def test_the_audit_shows_an_action_whole(database: Engine) -> None:
    secret = create(role="admin")["token"]
    caller = Caller(uuid4(), "ana", Role.OPERATOR)
    with database.begin() as tx:
        number = record(
            tx,
            caller,
            action="job.pause",
            target="jobs/email/1",
            request={"reason": "too many"},
            before={"state": "waiting"},
            after={"state": "paused"},
            result="done",
        )
    [item, *_] = call("GET", "/audit", token=secret, query={"action": "job.pause"}).json["items"]
    assert item.pop("at")
    assert item == {
        "id": number,
        "actor": "ana",
        "token_id": str(caller.token_id),
        "role": "operator",
        "action": "job.pause",
        "target": "jobs/email/1",
        "tenant_id": None,
        "request": {"reason": "too many"},
        "before": {"state": "waiting"},
        "after": {"state": "paused"},
        "result": "done",
    }
