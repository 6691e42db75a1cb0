"""What CloudFormation is told of a migration: its success, or why it failed, without the row that a database quotes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from functions.db.custom_resource import answer

SECRET = "jane@client.example"


class CloudFormation:
    """A URL that takes one answer."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Taker(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.told = told
        self.server = HTTPServer(("127.0.0.1", 0), Taker)

    def request(self, kind: str) -> dict[str, Any]:
        return {
            "RequestType": kind,
            "ResponseURL": f"http://127.0.0.1:{self.server.server_port}/",
            "StackId": "stack",
            "RequestId": "request",
            "LogicalResourceId": "Migration",
        }


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    made = CloudFormation()
    thread = Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def _fail() -> dict[str, str]:
    quoting = {"C": "23514", "M": 'violates check constraint "c"', "D": f"Failing row contains ({SECRET})."}
    raise DBAPIError("INSERT INTO t", None, Exception(quoting))


def test_a_success_is_told_with_what_it_reached(cloudformation: CloudFormation) -> None:
    answer(cloudformation.request("Create"), lambda: {"revision": "0004"})
    [told] = cloudformation.told
    assert (told["Status"], told["Data"]) == ("SUCCESS", {"revision": "0004"})


def test_a_failure_is_told_without_the_row_that_the_database_quotes(cloudformation: CloudFormation) -> None:
    reply = answer(cloudformation.request("Update"), _fail)
    [told] = cloudformation.told
    assert told["Status"] == "FAILED"
    assert told["Reason"] == 'DBAPIError: violates check constraint "c" (SQLSTATE 23514)'
    assert SECRET not in json.dumps([told, reply])


def test_a_delete_undoes_nothing(cloudformation: CloudFormation) -> None:
    answer(cloudformation.request("Delete"), _fail)
    assert cloudformation.told[0]["Status"] == "SUCCESS"
