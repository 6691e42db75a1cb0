"""The job routes: finding jobs, looking at one, ordering one, and steering them one by one or by a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from functions.core.job import JobRequest
from functions.pipeline import relay
from functions.pipeline.conservation import conservation
from tests.api import Answer, call, token
from tests.harness import Queues, job, new_tenant, order, work

PREFIX = "https://sqs.eu-central-1.amazonaws.com/123456789012/duecourse-prod-"
Ask = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    from functions.pipeline.settings import settings

    monkeypatch.setenv("QUEUE_URL_PREFIX", PREFIX)
    settings.cache_clear()


@pytest.fixture
def tokens(database: Engine) -> dict[str, str]:
    with database.begin() as tx:
        return {role: token(tx, role) for role in ("viewer", "operator", "admin")}


@pytest.fixture
def ask(tokens: dict[str, str]) -> Ask:
    """Send a request as somebody, an operator unless told otherwise."""

    def send(method: str, path: str, *, role: str = "operator", **options: Any) -> Answer:
        return call(method, path, **{"token": tokens[role], **options})

    return send


def _order(database: Engine, *requests: JobRequest) -> list[UUID]:
    with database.begin() as tx:
        return order(tx, *requests)


def _probes(count: int, **options: Any) -> list[JobRequest]:
    return [JobRequest("upkeep.probe", {"note": f"n{n}"}, **options) for n in range(count)]


def _set(database: Engine, statement: str, **values: Any) -> None:
    with database.begin() as tx:
        tx.execute(text(statement), values)


def _ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.text
    return [item["id"] for item in answer.json["items"]]


def _die(database: Engine, ids: list[UUID], error_class: str = "Timeout") -> None:
    _set(
        database,
        "UPDATE jobs SET state = 'active', claim_token = id, runs = 1, started_at = now() WHERE id = ANY(:ids)",
        ids=ids,
    )
    _set(
        database,
        "UPDATE jobs SET state = 'dead', claim_token = NULL, died_at = now(), error_class = :error, outbox_at = NULL,"
        " error = 'no answer for ada@example.com' WHERE id = ANY(:ids)",
        ids=ids,
        error=error_class,
    )


def test_a_queues_jobs_are_listed_newest_first_page_by_page(database: Engine, ask: Ask) -> None:
    ids = [str(found) for found in _order(database, *_probes(7))]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        answer = ask("GET", "/jobs/upkeep", query={"limit": 3, **cursor})
        seen += _ids(answer)
        cursor = {"cursor": answer.json["next_cursor"]}
    assert seen == ids[::-1]
    assert answer.json["next_cursor"] is None


def test_open_and_finished_jobs_are_merged_in_the_order_of_time(database: Engine, ask: Ask) -> None:
    ids = _order(database, *_probes(6))
    for found in ids[::2]:
        assert ask("POST", f"/jobs/upkeep/{found}/remove").status == 200
    assert _ids(ask("GET", "/jobs/upkeep")) == [str(found) for found in reversed(ids)]
    assert _ids(ask("GET", "/jobs/upkeep", query={"state": "cancelled"})) == [
        str(found) for found in reversed(ids[::2])
    ]


def test_every_filter_finds_its_jobs_and_no_others(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
    recipient, task = str(uuid4()), str(uuid4())
    mail = {"recipient_kind": "user", "recipient_id": recipient}
    [assigned] = _order(database, JobRequest("email.task_assignment", {**mail, "task_id": task}, tenant_id=tenant))
    other = {"recipient_kind": "user", "recipient_id": str(uuid4()), "url": "https://firm.example/"}
    [welcome] = _order(database, JobRequest("email.welcome", other, tenant_id=uuid4()))
    _die(database, [welcome])
    cases: list[tuple[dict[str, str], UUID]] = [
        ({"tenant_id": str(tenant)}, assigned),
        ({"type": "email.welcome"}, welcome),
        ({"state": "dead"}, welcome),
        ({"error_class": "Timeout"}, welcome),
        ({"recipient": recipient}, assigned),
        ({"tenant_id": str(tenant), "subject": task}, assigned),
    ]
    for query, expected in cases:
        assert _ids(ask("GET", "/jobs/email", query=query)) == [str(expected)], query
    assert _ids(ask("GET", "/jobs/email", query={"created_before": "2020-01-01T00:00:00Z"})) == []
    assert len(_ids(ask("GET", "/jobs/email", query={"created_after": "2020-01-01T00:00:00Z"}))) == 2


def test_a_notices_mail_is_found_by_its_document(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
        client = tx.execute(
            text("INSERT INTO clients (tenant_id, name) VALUES (:tenant, 'Client') RETURNING id"), {"tenant": tenant}
        ).scalar_one()
    mail = {"recipient_kind": "client", "recipient_id": str(client), "local_date": "2026-11-24"}
    first, _ = _order(database, *(JobRequest("email.digest", mail, tenant_id=tenant) for _ in range(2)))
    document = uuid4()
    _set(
        database,
        "INSERT INTO notifications (id, tenant_id, recipient_kind, recipient_id, category, subject_id, client_id,"
        " due_date, milestone, channel, mode, local_date, status, job_id) VALUES (gen_random_uuid(), :tenant, 'client',"
        " :client, 'document_expiry', :document, :client, '2026-12-01', 7, 'email', 'digest', '2026-11-24', 'pending',"
        " :job)",
        tenant=tenant,
        client=client,
        document=document,
        job=first,
    )
    query = {"tenant_id": str(tenant), "subject": str(document)}
    assert _ids(ask("GET", "/jobs/email-bulk", query=query)) == [str(first)]


def test_a_rare_filter_looks_at_a_bounded_part_and_says_where_to_go_on(
    database: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.api import job_queries

    monkeypatch.setattr(job_queries, "WINDOW_ROWS", 10)
    ids = _order(database, *_probes(25))
    _die(database, [ids[0], ids[24]], "Rare")
    answers, cursor = [], None
    while True:
        answer = ask("GET", "/jobs/upkeep", query={"error_class": "Rare"} | ({"cursor": cursor} if cursor else {}))
        answers.append(_ids(answer))
        cursor = answer.json["next_cursor"]
        if cursor is None:
            break
    assert answers == [[str(ids[24])], [], [str(ids[0])]]


def test_a_job_tells_its_story(database: Engine, queues: Queues, ask: Ask) -> None:
    [job_id] = _order(database, JobRequest("upkeep.probe", {"note": "hello", "fail_runs": 1, "give_up": False}))
    relay.drain()
    work(queues, "upkeep", most=5)
    answer = ask("GET", f"/jobs/upkeep/{job_id}")
    assert answer.status == 200
    found = answer.json
    assert (found["type"], found["runs"], found["max_attempts"]) == ("upkeep.probe", found["runs"], 3)
    [run] = found["attempts_log"]
    assert (run["run"], run["outcome"], run["counted"], run["error_class"]) == (1, "failed", True, "ProbeFailed")
    assert "probe.py" in run["traceback"]
    events = [event["event"] for event in found["timeline"]]
    assert events[:2] == ["ordered", "sent"]
    assert "failed" in events
    assert found["links"]["log_group"].endswith("upkeep-worker")
    assert found["links"]["log_filter"] == f'"{job_id}"'


def test_a_job_names_its_parent_and_its_children(database: Engine, ask: Ask) -> None:
    parent, *children = _order(database, *_probes(4))
    _set(database, "UPDATE jobs SET parent_id = :parent, root_id = :parent WHERE id <> :parent", parent=parent)
    found = ask("GET", f"/jobs/upkeep/{parent}").json
    assert (found["parent"], [child["id"] for child in found["children"]]) == (None, [str(child) for child in children])
    found = ask("GET", f"/jobs/upkeep/{children[0]}").json
    assert found["children"] == []
    assert found["parent"] == {"id": str(parent), "queue": "upkeep", "type": "upkeep.probe", "state": "waiting"}


def test_on_aws_a_job_links_to_its_workers_log_and_traces(
    database: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    ids = _order(database, *_probes(1))
    _die(database, ids)
    links = ask("GET", f"/jobs/upkeep/{ids[0]}").json["links"]
    assert links["log_group"] == "/aws/lambda/duecourse-prod-upkeep-worker"
    home = "https://eu-central-1.console.aws.amazon.com/"
    group = "$252Faws$252Flambda$252Fduecourse-prod-upkeep-worker"
    assert links["logs"].startswith(
        f"{home}cloudwatch/home?region=eu-central-1#logsV2:log-groups/log-group/{group}/log-events"
        f"$3FfilterPattern$3D$2522{ids[0]}$2522$26start$3D"
    )
    wanted = "service%28%22duecourse-prod-upkeep-worker%22%29"
    assert links["traces"].startswith(f"{home}xray/home?region=eu-central-1#/traces?filter={wanted}&timeRange=20")


@pytest.mark.parametrize(("role", "sees"), [("viewer", False), ("operator", False), ("admin", True)])
def test_personal_data_is_shown_to_administrators_alone(database: Engine, ask: Ask, role: str, *, sees: bool) -> None:
    payload = {
        "recipient_kind": "user",
        "recipient_id": str(uuid4()),
        "subject": "Dear Ada",
        "body": "Write to ada@example.com",
        "link": {"label": "Ada", "url": "https://firm.example/"},
    }
    [job_id] = _order(database, JobRequest("email.custom", payload, tenant_id=uuid4()))
    _die(database, [job_id])
    answer = ask("GET", f"/jobs/email/{job_id}", role=role)
    assert ("Ada" in answer.text, "ada@example.com" in answer.text) == (sees, sees)
    assert answer.json["payload"]["recipient_id"] == payload["recipient_id"]
    assert ("ada@example.com" in ask("GET", "/jobs/email", role=role).text) == sees


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_link_that_signs_somebody_in_is_shown_to_nobody(database: Engine, ask: Ask, role: str) -> None:
    payload = {
        "recipient_kind": "user",
        "recipient_id": str(uuid4()),
        "url": "https://firm.example/reset?secret=4711",
        "expires_at": "2026-11-24T12:00:00Z",
    }
    [job_id] = _order(database, JobRequest("email.password_reset", payload, tenant_id=uuid4()))
    answer = ask("GET", f"/jobs/email-critical/{job_id}", role=role)
    assert answer.status == 200
    assert "4711" not in answer.text


def test_a_removed_job_forgets_such_a_link_and_its_order_is_still_known(database: Engine, ask: Ask) -> None:
    payload = {"recipient_kind": "user", "recipient_id": str(uuid4()), "url": "https://firm.example/?secret=4711"}
    body = {"type": "email.welcome", "payload": payload, "tenant_id": str(uuid4())}
    headers = {"Idempotency-Key": "welcome"}
    made = ask("POST", "/jobs", body=body, headers=headers).json
    assert ask("POST", f"/jobs/email/{made['id']}/remove").status == 200
    with database.begin() as tx:
        assert "url" not in job(tx, UUID(made["id"])).payload
    again = ask("POST", "/jobs", body=body, headers=headers)
    assert (again.status, again.json["id"]) == (200, made["id"])


def test_an_order_by_http_runs(database: Engine, queues: Queues, ask: Ask) -> None:
    answer = ask("POST", "/jobs", body={"type": "upkeep.probe", "payload": {"note": "by http"}})
    assert answer.status == 201
    assert answer.json["created"] is True
    assert answer.headers["location"] == f"/jobs/upkeep/{answer.json['id']}"
    relay.drain()
    work(queues, "upkeep")
    assert ask("GET", answer.headers["location"]).json["state"] == "completed"


def test_an_idempotency_key_orders_once_and_refuses_another_payload(database: Engine, ask: Ask) -> None:
    body = {"type": "upkeep.probe", "payload": {"note": "once"}}
    headers = {"Idempotency-Key": "4711"}
    first, second = (ask("POST", "/jobs", body=body, headers=headers) for _ in range(2))
    assert (first.status, second.status) == (201, 200)
    assert (second.json["id"], second.json["created"]) == (first.json["id"], False)
    other = ask("POST", "/jobs", body=body | {"payload": {"note": "twice"}}, headers=headers)
    assert other.status == 422
    assert other.json["errors"][0]["location"] == "header.Idempotency-Key"
    # Another caller's key is another key.
    assert ask("POST", "/jobs", body=body, headers=headers, role="admin").status == 201


@pytest.mark.parametrize(
    ("key", "extra", "where"),
    [
        ("", {}, "header.Idempotency-Key"),
        ("k" * 201, {}, "header.Idempotency-Key"),
        ("\x00", {}, "header.Idempotency-Key"),
        ("é", {}, "header.Idempotency-Key"),
        ("k", {"dedup_key": "k"}, "body.dedup_key"),
        ("k", {"dedup_window_seconds": 60}, "body.dedup_window_seconds"),
    ],
)
def test_a_wrong_idempotency_key_is_refused(ask: Ask, key: str, extra: dict[str, Any], where: str) -> None:
    body = {"type": "upkeep.probe", "payload": {}, **extra}
    answer = ask("POST", "/jobs", body=body, headers={"Idempotency-Key": key})
    assert answer.status == 422
    assert answer.json["errors"][0]["location"].lower() == where.lower()


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"type": "nobody.knows", "payload": {}}, 422, "body.type"),
        ({"type": "upkeep.probe", "payload": {"note": 5}}, 422, "body.payload"),
        ({"type": "upkeep.probe", "payload": []}, 422, "body.payload"),
        ({"type": "upkeep.probe"}, 422, "body.payload"),
        ({"type": "upkeep.probe", "payload": {}, "priority": 2}, 422, "body.priority"),
        ({"type": "upkeep.probe", "payload": {}, "run_at": "2026-11-24T08:00:00"}, 422, "body.run_at"),
        ({"type": "upkeep.probe", "payload": {}, "colour": "red"}, 422, "body.colour"),
        (
            {"type": "upkeep.probe", "payload": {}, "run_at": "2026-11-24T08:00:00Z", "delay_seconds": 5},
            422,
            "body",
        ),
        ({"type": "upkeep.probe", "payload": {}, "dedup_window_seconds": 5}, 422, "body"),
    ],
)
def test_a_wrong_order_is_refused_with_the_reason(ask: Ask, body: Any, status: int, where: str) -> None:
    answer = ask("POST", "/jobs", body=body)
    assert (answer.status, answer.json["errors"][0]["location"]) == (status, where)


def test_a_job_is_paused_resumed_and_removed_each_with_its_row_in_the_audit(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
    [job_id] = _order(database, *_probes(1, tenant_id=tenant))
    path = f"/jobs/upkeep/{job_id}"
    said = [ask("POST", f"{path}/{action}") for action in ("pause", "resume", "remove", "remove")]
    assert [(answer.status, answer.json.get("before"), answer.json.get("after")) for answer in said[:3]] == [
        (200, "waiting", "paused"),
        (200, "paused", "waiting"),
        (200, "waiting", "cancelled"),
    ]
    assert (said[3].status, said[3].json["state"]) == (409, "cancelled")
    audit = ask("GET", "/audit").json["items"]
    assert [(row["action"], row["result"], row["target"], row["tenant_id"]) for row in reversed(audit)] == [
        ("job.pause", "done", path, str(tenant)),
        ("job.resume", "done", path, str(tenant)),
        ("job.remove", "done", path, str(tenant)),
        ("job.remove", "refused", path, str(tenant)),
    ]
    assert (audit[1]["before"], audit[1]["after"]) == ({"state": "waiting"}, {"state": "cancelled"})
    with database.begin() as tx:
        assert conservation(tx).holds


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("completed", "retry"),
        ("completed", "remove"),
        ("active", "pause"),
        ("active", "retry"),
        ("waiting", "resume"),
        ("waiting", "retry"),
        ("paused", "pause"),
        ("paused", "retry"),
        ("dead", "pause"),
        ("cancelled", "remove"),
    ],
)
def test_what_a_state_does_not_allow_is_a_conflict_that_names_the_state(
    database: Engine, ask: Ask, state: str, action: str
) -> None:
    [job_id] = _order(database, *_probes(1))
    if state in {"active", "completed"}:
        _set(database, "UPDATE jobs SET state = 'active', claim_token = id")
    if state == "completed":
        _set(database, "UPDATE jobs SET state = 'completed', claim_token = NULL, closed_at = now()")
    if state in {"paused", "cancelled"}:
        ask("POST", f"/jobs/upkeep/{job_id}/{'pause' if state == 'paused' else 'remove'}")
    if state == "dead":
        _die(database, [job_id])
    answer = ask("POST", f"/jobs/upkeep/{job_id}/{action}")
    assert (answer.status, answer.json["state"]) == (409, state)
    assert state not in answer.json["allowed_from"] or (state, action) == ("waiting", "retry")
    with database.begin() as tx:
        assert job(tx, job_id).state == state


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/nowhere",
        "/jobs/upkeep/01a20cce-372d-7483-bccd-27ef0cae7d3f",
        "/jobs/email/{job}",
    ],
)
def test_what_does_not_exist_is_not_found(database: Engine, ask: Ask, path: str) -> None:
    [job_id] = _order(database, *_probes(1))
    assert ask("GET", path.format(job=job_id)).status == 404
    if path.count("/") == 3:
        assert ask("POST", f"{path.format(job=job_id)}/pause").status == 404


def test_viewers_steer_nothing(database: Engine, ask: Ask) -> None:
    [job_id] = _order(database, *_probes(1))
    for path in (f"/jobs/upkeep/{job_id}/pause", "/jobs/upkeep/pause", "/jobs"):
        body = {"type": "upkeep.probe", "payload": {}} if path == "/jobs" else {} if path.count("/") == 3 else None
        assert ask("POST", path, role="viewer", body=body).status == 403, path
    with database.begin() as tx:
        assert job(tx, job_id).state == "waiting"


def test_a_tenants_token_sees_and_steers_its_own_jobs_alone(database: Engine) -> None:
    with database.begin() as tx:
        own, other = new_tenant(tx), new_tenant(tx)
        secret = token(tx, "admin", own)
    mine, theirs, nobodys = _order(database, *_probes(1, tenant_id=own), *_probes(1, tenant_id=other), *_probes(1))
    assert _ids(call("GET", "/jobs/upkeep", token=secret)) == [str(mine)]
    assert call("GET", "/jobs/upkeep", token=secret, query={"tenant_id": str(other)}).status == 403
    for hidden in (theirs, nobodys):
        assert call("GET", f"/jobs/upkeep/{hidden}", token=secret).status == 404
        assert call("POST", f"/jobs/upkeep/{hidden}/remove", token=secret).status == 404
    everything = {"dry_run": False}
    assert call("POST", "/jobs/upkeep/remove", token=secret, body=everything).json["changed"] == 1
    assert call("POST", "/jobs", token=secret, body={"type": "upkeep.probe", "payload": {}}).status == 403
    body = {"type": "compliance.refresh", "payload": {"local_date": "2026-11-24"}}
    assert call("POST", "/jobs", token=secret, body={**body, "tenant_id": str(other)}).status == 403
    made = call("POST", "/jobs", token=secret, body=body)
    assert made.status == 201
    with database.begin() as tx:
        assert job(tx, UUID(made.json["id"])).tenant_id == own
        assert [job(tx, found).state for found in (mine, theirs, nobodys)] == ["cancelled", "waiting", "waiting"]


def test_many_jobs_are_counted_first_and_then_changed(database: Engine, ask: Ask) -> None:
    dead = _order(database, *_probes(12))
    _die(database, dead[:8])
    _die(database, dead[8:], "Other")
    waiting = _order(database, *_probes(3, delay_seconds=600))
    order_it = {"filter": {"error_class": "Timeout"}}
    counted = ask("POST", "/jobs/upkeep/retry", body=order_it).json
    assert (counted["dry_run"], counted["matched"], counted["changed"], counted["more"]) == (True, 8, 0, False)
    part = ask("POST", "/jobs/upkeep/retry", body={**order_it, "dry_run": False, "limit": 5}).json
    assert (part["matched"], part["changed"], part["more"]) == (8, 5, True)
    rest = ask("POST", "/jobs/upkeep/retry", body={**order_it, "dry_run": False}).json
    assert (rest["matched"], rest["changed"], rest["more"]) == (3, 3, False)
    with database.begin() as tx:
        assert {job(tx, found).state for found in dead[:8]} == {"waiting"}
        assert {job(tx, found).state for found in dead[8:]} == {"dead"}
        assert {job(tx, found).state for found in waiting} == {"delayed"}
        assert conservation(tx).holds
    [last, _] = ask("GET", "/audit").json["items"]
    assert (last["action"], last["before"], last["after"]) == ("jobs.retry", {"dead": 3}, {"waiting": 3})


def test_a_retry_of_many_leaves_what_waits_for_its_time(database: Engine, ask: Ask) -> None:
    dead = _order(database, *_probes(2))
    _die(database, dead)
    delayed = _order(database, *_probes(2, delay_seconds=600))
    found = ask("POST", "/jobs/upkeep/retry", body={"dry_run": False}).json
    assert (found["changed"], found["other_states"]) == (2, {"delayed": 2})
    found = ask("POST", "/jobs/upkeep/retry", body={"dry_run": False, "filter": {"state": "delayed"}}).json
    assert found["changed"] == 2
    with database.begin() as tx:
        assert {job(tx, job_id).state for job_id in delayed} == {"waiting"}


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({"state": "sleeping"}, "query.state"),
        ({"tenant_id": "x"}, "query.tenant_id"),
        ({"limit": "0"}, "query.limit"),
        ({"limit": "201"}, "query.limit"),
        ({"created_after": "yesterday"}, "query.created_after"),
        ({"created_after": "2026-11-24T08:00:00"}, "query.created_after"),
        ({"cursor": "x"}, "query.cursor"),
        ({"subject": str(UUID(int=1))}, "query.subject"),
        ({"colour": "red"}, "query.colour"),
        ({"type": ""}, "query.type"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_reason(ask: Ask, query: dict[str, str], where: str) -> None:
    answer = ask("GET", "/jobs/upkeep", query=query)
    assert (answer.status, answer.json["errors"][0]["location"]) == (422, where)


def test_a_cursor_of_other_filters_is_refused(database: Engine, ask: Ask) -> None:
    _order(database, *_probes(3))
    cursor = ask("GET", "/jobs/upkeep", query={"limit": 1}).json["next_cursor"]
    answer = ask("GET", "/jobs/upkeep", query={"limit": 1, "cursor": cursor, "state": "dead"})
    assert answer.status == 422
    assert ask("GET", "/jobs/email", query={"limit": 1, "cursor": cursor}).status == 422
