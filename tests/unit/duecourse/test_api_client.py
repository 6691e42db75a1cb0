"""The command line's client of the management API, against a server that answers what the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from duecourse import target
from duecourse.api import Api, ApiError, Refused
from duecourse.cli import app
from duecourse.target import TargetError

Answer = tuple[int, Any]
TOKEN = "dc_test"


class Server(ThreadingHTTPServer):
    """Answers by path and query; what is not foreseen is 404 without a reason."""

    answers: dict[str, Answer]
    asked: list[tuple[str, str, str | None, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Notes each request."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = json.loads(body) if body else None
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization"), sent))
        status, answer = self.server.answers.get(self.path, (404, "no page"))
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.answers, made.asked = {}, []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_the_token_goes_along_and_segments_are_quoted(server: Server) -> None:
    server.answers["/jobs/email%2F..%3F/x?state=dead"] = (200, {"ok": 1})
    assert Api(server.url, TOKEN).get("jobs", "email/..?", "x", state="dead", type=None) == {"ok": 1}
    assert server.asked == [("GET", "/jobs/email%2F..%3F/x?state=dead", f"Bearer {TOKEN}", None)]


def test_a_list_is_read_page_by_page_even_over_empty_ones(server: Server) -> None:
    server.answers = {
        "/jobs?limit=3": (200, {"items": [1, 2], "next_cursor": "a"}),
        "/jobs?limit=1&cursor=a": (200, {"items": [], "next_cursor": "b"}),
        "/jobs?limit=1&cursor=b": (200, {"items": [3], "next_cursor": "c"}),
    }
    assert list(Api(server.url, TOKEN).items("jobs", limit=3)) == [1, 2, 3]
    assert len(server.asked) == 3


def test_a_problem_is_one_sentence(server: Server) -> None:
    wrong = [{"location": "query.limit", "reason": "at most 200"}]
    server.answers["/jobs"] = (422, {"title": "Unprocessable", "detail": "it is not valid", "errors": wrong})
    with pytest.raises(Refused, match=r"^it is not valid \(query\.limit: at most 200\)$") as caught:
        Api(server.url, TOKEN).get("jobs")
    assert caught.value.status == 422


def test_an_answer_that_is_no_problem_document(server: Server) -> None:
    with pytest.raises(Refused, match=r"^the API answered 404 Not Found, without a reason$"):
        Api(server.url, TOKEN).get("nowhere")


def test_nobody_answers() -> None:
    with pytest.raises(ApiError, match=r"^the API at http://127\.0\.0\.1:1 cannot be reached"):
        Api("http://127.0.0.1:1", TOKEN).get("health")


@pytest.mark.parametrize("url", ["ftp://example.com", "example.com", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ApiError, match="URL such as"):
        Api(url, TOKEN)


def test_the_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(ApiError, match="use https"):
        Api("http://api.example.com", TOKEN)
    assert TOKEN not in repr(Api("https://api.example.com", TOKEN))


def test_a_target_by_its_address_needs_a_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUECOURSE_TOKEN", raising=False)
    with pytest.raises(TargetError, match="put it into the variable DUECOURSE_TOKEN"):
        target.api(server.url)
    monkeypatch.setenv("DUECOURSE_TOKEN", TOKEN)
    assert target.api(server.url).url == server.url
    with pytest.raises(TargetError, match="name it, as `--target local`"):
        target.deployment(server.url)


def test_a_stack_that_aws_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TargetError, match=r"^AWS cannot be asked \(.*\): name a profile with --profile"):
        target.deployment("duecourse-prod")


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(TargetError, match=r"^AWS cannot be asked \(.*nobody.*\): name a profile"):
        target.deployment("duecourse-prod", profile="nobody")


def test_the_command_line_says_why_in_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUECOURSE_TOKEN", TOKEN)
    server.answers["/jobs/email/x/retry"] = (409, {"title": "Conflict", "detail": "it is completed"})
    result = CliRunner().invoke(app, ["jobs", "retry", "email", "x", "--target", server.url])
    assert result.exit_code == 1
    assert result.stderr == "x: it is completed\n"
    result = CliRunner().invoke(app, ["jobs", "show", "email", "y", "-t", server.url])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the API answered 404 Not Found, without a reason\n"


def test_many_jobs_are_counted_and_asked_about_before_they_are_changed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUECOURSE_TOKEN", TOKEN)
    counted = {"matched": 7, "other_states": {"active": 2}, "changed": 0, "key_taken": 0, "more": False}
    server.answers["/jobs/email/remove"] = (200, counted)
    arguments = ["jobs", "remove", "email", "--state", "dead", "-t", server.url]
    for more, given, code in ((["--dry-run"], "", 0), ([], "n\n", 1)):
        result = CliRunner().invoke(app, arguments + more, input=given)
        assert result.exit_code == code
        assert "7 jobs of email can be removed; left alone: 2 active" in result.stderr
    assert f"Remove them at {server.url}?" in result.stderr
    assert [sent for *_, sent in server.asked] == [{"filter": {"state": "dead"}, "dry_run": True}] * 2
    result = CliRunner().invoke(app, [*arguments, "--yes"])
    assert result.exit_code == 0
    assert server.asked[-1][3] == {"filter": {"state": "dead"}, "dry_run": False}


def test_ids_and_filters_exclude_each_other(server: Server) -> None:
    assert CliRunner().invoke(app, ["jobs", "retry", "email", "x", "--state", "dead", "-t", server.url]).exit_code == 2
    assert server.asked == []
