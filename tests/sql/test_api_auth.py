"""Who gets in: tokens that are wrong, expired, revoked, of another role, of another tenant."""

from __future__ import annotations

import hmac
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from duecourse.local.delivery import Context
from functions.api import app, auth
from functions.api.auth import FAILURES_PER_MINUTE
from functions.api.identity import Caller, Role, token_hash
from functions.api.problems import CONTENT_TYPE, Problem
from functions.core.errors import BadEvent
from functions.db.engine import statements
from functions.pipeline import sweep
from tests.api import SOURCE, Answer, call, token
from tests.harness import new_tenant

SCHEME = {"authorization": "Basic YWRtaW46YWRtaW4="}


def get(path: str = "/audit", **options: Any) -> Answer:
    return call("GET", path, **options)


def put(observer: Engine, statement: str, **values: Any) -> None:
    with observer.begin() as tx:
        tx.execute(text(statement), values)


@pytest.fixture
def admin(database: Engine) -> str:
    with database.begin() as tx:
        return token(tx, "admin")


def test_a_good_token_is_let_in_and_its_use_is_noted(admin: str, observer: Engine) -> None:
    assert get(token=admin).status == 200
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT last_used_at > now() - interval '1 minute' FROM api_tokens"))


@pytest.mark.parametrize("headers", [{}, SCHEME, {"authorization": "Bearer"}, {"authorization": "Bearer  "}], ids=str)
def test_without_a_token_nothing_is_let_in_and_nothing_counted(
    database: Engine, observer: Engine, headers: dict[str, str]
) -> None:
    answer = get(headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == CONTENT_TYPE
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT count(*) FROM auth_failures")) == 0


@pytest.mark.parametrize("wrong", ["dc_x", "dc_" + "A" * 43, "'; DROP TABLE api_tokens --", "\udcff", "é" * 5000])
def test_a_wrong_token_is_refused_and_counted(admin: str, observer: Engine, wrong: str) -> None:
    assert get(token=wrong).status == 401
    with observer.begin() as tx:
        assert tx.execute(text("SELECT source, failures FROM auth_failures")).all() == [(SOURCE, 1)]
    assert get(token=admin).status == 200


@pytest.mark.parametrize("column", ["expires_at", "revoked_at"])
def test_an_ended_token_is_refused_like_a_wrong_one(admin: str, observer: Engine, column: str) -> None:
    put(observer, f"UPDATE api_tokens SET {column} = now()")
    ended, wrong = get(token=admin), get(token="dc_wrong")
    assert (ended.status, ended.text) == (401, wrong.text)


def test_a_token_works_until_it_expires(admin: str, observer: Engine) -> None:
    put(observer, "UPDATE api_tokens SET expires_at = now() + interval '1 minute'")
    assert get(token=admin).status == 200


def test_nothing_tells_a_stranger_which_paths_exist(database: Engine) -> None:
    answers = [
        call(method, path) for method in ("GET", "POST", "PUT") for path in ("/audit", "/nowhere", "/openapi.json")
    ]
    assert {answer.status for answer in answers} == {401}
    assert len({answer.text.replace(answer.json["instance"], "") for answer in answers}) == 1


def test_wrong_tokens_from_one_address_are_limited_and_others_go_on(admin: str, observer: Engine) -> None:
    put(
        observer,
        "INSERT INTO auth_failures VALUES (:s, date_trunc('minute', now()), :n)",
        s=SOURCE,
        n=FAILURES_PER_MINUTE,
    )
    for secret in ("dc_wrong", admin):  # a good one, too, or guesses would be told from misses
        answer = get(token=secret)
        assert answer.status == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
    assert get(token=admin, source="198.51.100.1").status == 200
    put(observer, "UPDATE auth_failures SET minute = minute - interval '1 minute'")
    assert get(token=admin).status == 200


def test_the_limit_is_reached_by_failing(admin: str, observer: Engine) -> None:
    seen = [get(token=f"dc_{number}").status for number in range(FAILURES_PER_MINUTE + 5)]
    assert seen.count(429) >= 5 or len({*seen}) == 1  # the calendar minute may have turned on the way
    assert seen[:FAILURES_PER_MINUTE].count(401) >= FAILURES_PER_MINUTE - 5


def test_failures_are_forgotten_by_the_sweep(database: Engine, observer: Engine) -> None:
    put(observer, "INSERT INTO auth_failures VALUES ('old', now() - interval '2 hours', 5), ('new', now(), 5)")
    assert sweep.forget_auth_failures() == 1
    with observer.begin() as tx:
        assert tx.scalars(text("SELECT source FROM auth_failures")).all() == ["new"]


@pytest.mark.parametrize(
    ("address", "source"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("", "unknown"), ("x'y", "unknown")],
)
def test_one_customer_s_addresses_are_one_source(address: str, source: str) -> None:
    assert auth.network(address) == source


def test_tokens_are_compared_in_constant_time(admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(auth, "hmac", type("Recording", (), {"compare_digest": staticmethod(compare)}))
    assert (get(token=admin).status, get(token="dc_wrong").status) == (200, 401)
    assert compared == [(32, 32), (32, 32)]  # SHA-256 of both, whether a row was found or not


def test_only_hashes_are_stored(admin: str, observer: Engine) -> None:
    with observer.begin() as tx:
        [row] = tx.execute(text("SELECT * FROM api_tokens"))
    assert admin not in str(row)
    assert bytes(row.token_hash) == token_hash(admin)


def test_authentication_is_one_statement(admin: str) -> None:
    call("GET", "/health")
    get(token=admin)
    before = statements.total
    get(token=admin)
    assert statements.total - before == 3  # that one, and the route's own two


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)])
def test_a_role_suffices_or_does_not(database: Engine, role: str, status: int) -> None:
    with database.begin() as tx:
        made = token(tx, role)
    assert get(token=made).status == status


@pytest.mark.parametrize("role", Role)
def test_a_role_includes_those_below_it(role: Role) -> None:
    caller = Caller(uuid4(), "ana", role)
    assert [caller.may(other) for other in Role] == [other.rank <= role.rank for other in Role]


def as_caller(role: Role, tenant_id: UUID | None) -> None:
    auth.set_caller(Caller(uuid4(), "ana", role, tenant_id))


def test_a_token_of_one_tenant_is_limited_to_it() -> None:
    own, other = uuid4(), uuid4()
    as_caller(Role.ADMIN, own)
    assert auth.scope(None) == auth.scope(own) == own
    with pytest.raises(Problem, match="another tenant"):
        auth.scope(other)
    with pytest.raises(Problem, match="every tenant"):
        auth.require("viewer", everywhere=True)
    as_caller(Role.ADMIN, None)
    assert (auth.scope(None), auth.scope(other)) == (None, other)
    auth.set_caller(None)


def test_a_token_of_one_tenant_sees_its_actions_alone(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        own, other = new_tenant(tx), new_tenant(tx)
        scoped, everywhere = token(tx, "operator", own), token(tx, "viewer")
    for tenant_id in (own, other, None):
        put(
            observer,
            "INSERT INTO operator_actions (actor, role, action, target, tenant_id, result)"
            " VALUES ('ana', 'operator', 'job.pause', 'jobs/email/1', :t, 'done')",
            t=tenant_id,
        )
    assert [item["tenant_id"] for item in get(token=scoped).json["items"]] == [str(own)]
    assert get(token=scoped, query={"tenant_id": other}).status == 403
    assert get(token=everywhere).status == 403


def test_the_caller_of_one_request_is_not_that_of_the_next(admin: str) -> None:
    assert get(token=admin).status == 200
    assert get().status == 401
    assert auth.current() is None


def test_headers_are_known_in_any_case(admin: str) -> None:
    assert get(headers={"AUTHORIZATION": f"bearer {admin}"}).status == 200
    assert get(headers={"Authorization": f"BEARER   {admin} "}).status == 200


def test_an_event_that_is_no_request_is_named() -> None:
    with pytest.raises(BadEvent, match="HTTP API"):
        app.handler({"Records": []}, Context())


def test_a_database_that_is_away_is_a_503(monkeypatch: pytest.MonkeyPatch, database: Engine) -> None:
    from functions.db import engine as db

    monkeypatch.setenv("DATABASE_URL", "postgresql://me@127.0.0.1:1/nothing")
    db.engine.cache_clear()
    for answer in (get(token="dc_any"), call("GET", "/health")):
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        assert "127.0.0.1" not in answer.text
    db.engine.cache_clear()


def test_no_answer_is_kept_by_a_cache(admin: str) -> None:
    for answer in (get(token=admin), get(), call("GET", "/health")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_tokens_are_not_logged(admin: str, caplog: pytest.LogCaptureFixture) -> None:
    get(token=admin)
    get(token="dc_secret")
    logged = str([record.__dict__ for record in caplog.records])
    assert "/audit" in logged
    assert admin not in logged
    assert "dc_secret" not in logged
