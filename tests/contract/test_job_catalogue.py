"""docs/jobs.md is what the catalogue and the contracts say."""

from __future__ import annotations

from pathlib import Path

import pytest

from duecourse import job_catalogue
from duecourse.payload_fields import PayloadField, fields
from duecourse.words import about, duration
from functions.core.catalog import CATALOG, Catalog, JobType, Queue
from functions.core.resolve import resolve
from functions.core.retry import RetryPolicy
from functions.email.payloads import Invoice, PasswordReset
from functions.upkeep.payloads import Probe


def test_the_page_is_current() -> None:
    assert job_catalogue.main(["--check"]) == 0, f"run `{job_catalogue.COMMAND}`"


def test_the_page_names_every_queue_schedule_type_and_field() -> None:
    page = job_catalogue.document()
    for row in (*CATALOG.queues, *CATALOG.schedules):
        assert f"| `{row}` |" in page
    for job_type in CATALOG.job_types.values():
        _, _, section = page.partition(f"\n### {job_type.name}\n")
        section, _, _ = section.partition("\n### ")
        assert section, job_type.name
        for field in fields(resolve(job_type.payload)):
            assert f"| `{field.path}` |" in section


def test_a_stale_page_is_told_and_then_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "jobs.md"
    monkeypatch.setattr(job_catalogue, "DOCUMENT", page)
    assert job_catalogue.main(["--check"]) == 1
    page.write_text(job_catalogue.document().replace("20 a day", "21 a day"))
    assert job_catalogue.main(["--check"]) == 1
    assert f"run `{job_catalogue.COMMAND}`" in capsys.readouterr().out
    assert job_catalogue.main([]) == 0
    assert job_catalogue.main(["--check"]) == 0
    assert job_catalogue.main(["--chek"]) == 2


def test_a_change_of_the_catalogue_changes_the_page() -> None:
    queue = Queue("email", timeout_seconds=45, batch_size=20, batch_window_seconds=2, max_concurrency=7)
    retry = RetryPolicy(max_attempts=2, base_seconds=60, cap_seconds=3600)
    job = JobType("email.new", "email", "functions.upkeep.payloads:Probe", "functions.upkeep.probe:perform", retry)
    page = job_catalogue.document(Catalog((queue,), (job,), ()))
    assert "| `email` | standard | 45 s | 4 min 32 s | 20 within 2 s | 7 | 30 min | 17 |" in page
    assert "* 2 attempts; between them at most 1 min (1 min in all), each wait drawn evenly from 0 up." in page


def test_a_field_tells_its_type_its_rules_and_whether_it_is_needed() -> None:
    found = {field.path: field for field in fields(Invoice)}
    assert list(found)[:4] == ["recipient_kind", "recipient_id", "invoice_id", "attachments[]"]
    assert found["recipient_kind"].type == "`user` or `client`"
    assert found["attachments[]"].rules == "At most 10 entries."
    assert found["attachments[].size"] == PayloadField(
        "attachments[].size", "whole number", required=True, default="no", rules="1 to 7,340,032."
    )
    assert "An absolute https link" in found["url"].rules
    assert not found["url"].required
    crashes = next(field for field in fields(Probe) if field.path == "crash_runs")
    assert (crashes.default, crashes.required) == ("no: 0", False)
    assert crashes.rules.endswith("The worker's process exits at once, as on an out-of-memory kill.")
    expiry = next(field for field in fields(PasswordReset) if field.path == "expires_at")
    assert expiry.type == "instant with a time zone"


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0 s", "0 s"),
        (0.5, "0.5 s", "0 s"),
        (90, "1 min 30 s", "2 min"),
        (3600, "1 h", "1 h"),
        (14 * 86_400, "14 days", "14 d"),
        (90_000, "25 h", "1 d"),
    ],
)
def test_durations(seconds: float, exact: str, rough: str) -> None:
    assert (duration(seconds), about(seconds)) == (exact, rough)
