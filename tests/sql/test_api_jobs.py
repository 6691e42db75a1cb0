"""Jobs over HTTP: listed, filtered, read, with what each role may see."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from functions.core.job import JobRequest
from functions.pipeline import relay
from tests.api import Ask, die, execute, ids_of, ordered, probes
from tests.harness import Queues, job, new_tenant, work

pytestmark = pytest.mark.usefixtures("queue_prefix")


def test_a_queues_jobs_are_listed_newest_first_page_by_page(database: Engine, ask: Ask) -> None:
    ids = [str(found) for found in ordered(database, *probes(7))]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        answer = ask("GET", "/jobs/upkeep", query={"limit": 3, **cursor})
        seen += ids_of(answer)
        cursor = {"cursor": answer.json["next_cursor"]}
    assert seen == ids[::-1]
    assert answer.json["next_cursor"] is None


def test_open_and_finished_jobs_are_merged_in_the_order_of_time(database: Engine, ask: Ask) -> None:
    ids = ordered(database, *probes(6))
    for found in ids[::2]:
        assert ask("POST", f"/jobs/upkeep/{found}/remove").status == 200
    assert ids_of(ask("GET", "/jobs/upkeep")) == [str(found) for found in reversed(ids)]
    assert ids_of(ask("GET", "/jobs/upkeep", query={"state": "cancelled"})) == [
        str(found) for found in reversed(ids[::2])
    ]


def test_every_filter_finds_its_jobs_and_no_others(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
    recipient, task = str(uuid4()), str(uuid4())
    mail = {"recipient_kind": "user", "recipient_id": recipient}
    [assigned] = ordered(database, JobRequest("email.task_assignment", {**mail, "task_id": task}, tenant_id=tenant))
    other = {"recipient_kind": "user", "recipient_id": str(uuid4()), "url": "https://firm.example/"}
    [welcome] = ordered(database, JobRequest("email.welcome", other, tenant_id=uuid4()))
    die(database, [welcome])
    cases: list[tuple[dict[str, str], UUID]] = [
        ({"tenant_id": str(tenant)}, assigned),
        ({"type": "email.welcome"}, welcome),
        ({"state": "dead"}, welcome),
        ({"error_class": "Timeout"}, welcome),
        ({"recipient": recipient}, assigned),
        ({"tenant_id": str(tenant), "subject": task}, assigned),
    ]
    for query, expected in cases:
        assert ids_of(ask("GET", "/jobs/email", query=query)) == [str(expected)], query
    assert ids_of(ask("GET", "/jobs/email", query={"created_before": "2020-01-01T00:00:00Z"})) == []
    assert len(ids_of(ask("GET", "/jobs/email", query={"created_after": "2020-01-01T00:00:00Z"}))) == 2


def test_a_notices_mail_is_found_by_its_document(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
        client = tx.execute(
            text("INSERT INTO clients (tenant_id, name) VALUES (:tenant, 'Client') RETURNING id"), {"tenant": tenant}
        ).scalar_one()
    mail = {"recipient_kind": "client", "recipient_id": str(client), "local_date": "2026-11-24"}
    first, _ = ordered(database, *(JobRequest("email.digest", mail, tenant_id=tenant) for _ in range(2)))
    document = uuid4()
    execute(
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
    assert ids_of(ask("GET", "/jobs/email-bulk", query=query)) == [str(first)]


def test_a_rare_filter_looks_at_a_bounded_part_and_says_where_to_go_on(
    database: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.api import job_queries

    monkeypatch.setattr(job_queries, "WINDOW_ROWS", 10)
    ids = ordered(database, *probes(25))
    die(database, [ids[0], ids[24]], "Rare")
    answers, cursor = [], None
    while True:
        answer = ask("GET", "/jobs/upkeep", query={"error_class": "Rare"} | ({"cursor": cursor} if cursor else {}))
        answers.append(ids_of(answer))
        cursor = answer.json["next_cursor"]
        if cursor is None:
            break
    assert answers == [[str(ids[24])], [], [str(ids[0])]]


def test_a_job_tells_its_story(database: Engine, queues: Queues, ask: Ask) -> None:
    [job_id] = ordered(database, JobRequest("upkeep.probe", {"note": "hello", "fail_runs": 1, "give_up": False}))
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
    parent, *children = ordered(database, *probes(4))
    execute(database, "UPDATE jobs SET parent_id = :parent, root_id = :parent WHERE id <> :parent", parent=parent)
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
    ids = ordered(database, *probes(1))
    die(database, ids)
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
    [job_id] = ordered(database, JobRequest("email.custom", payload, tenant_id=uuid4()))
    die(database, [job_id])
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
    [job_id] = ordered(database, JobRequest("email.password_reset", payload, tenant_id=uuid4()))
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


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/nowhere",
        "/jobs/upkeep/01a20cce-372d-7483-bccd-27ef0cae7d3f",
        "/jobs/email/{job}",
    ],
)
def test_what_does_not_exist_is_not_found(database: Engine, ask: Ask, path: str) -> None:
    [job_id] = ordered(database, *probes(1))
    assert ask("GET", path.format(job=job_id)).status == 404
    if path.count("/") == 3:
        assert ask("POST", f"{path.format(job=job_id)}/pause").status == 404


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
    ordered(database, *probes(3))
    cursor = ask("GET", "/jobs/upkeep", query={"limit": 1}).json["next_cursor"]
    answer = ask("GET", "/jobs/upkeep", query={"limit": 1, "cursor": cursor, "state": "dead"})
    assert answer.status == 422
    assert ask("GET", "/jobs/email", query={"limit": 1, "cursor": cursor}).status == 422
