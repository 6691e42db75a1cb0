"""What an operator says on the command line: let paused and suppressed mail go on."""

from __future__ import annotations

from sqlalchemy import Engine, text
from typer.testing import CliRunner

from duecourse.cli import app
from tests.harness import new_tenant


def _say(*arguments: str) -> str:
    said = CliRunner().invoke(app, ["email", *arguments])
    assert said.exit_code == 0, said.output
    return said.output


def test_an_operator_resumes_a_tenant_that_the_breaker_paused(database: Engine) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
        tx.execute(text("UPDATE tenants SET mail_paused_at = now(), mail_paused_reason = 'bounces'"))
    _say("resume", str(tenant))
    with database.begin() as tx:
        assert tx.execute(text("SELECT mail_paused_at, mail_paused_reason FROM tenants")).one() == (None, None)
    _say("resume", str(tenant))  # again: nothing to do, and no error


def test_an_operator_clears_a_suppressed_address_in_any_case_of_letters(database: Engine) -> None:
    with database.begin() as tx:
        tx.execute(text("INSERT INTO email_suppressions (address, reason) VALUES ('a@example.com', 'bounce')"))
    _say("unsuppress", "A@Example.com")
    with database.begin() as tx:
        assert tx.execute(text("SELECT count(*) FROM email_suppressions")).scalar_one() == 0
