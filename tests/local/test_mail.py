"""Mail on the deployed template: sent through the queue and SES, reported by the event rule, ended by the link."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any
from uuid import UUID

from duecourse.local.mailbox import mails
from tests.harness import new_tenant
from tests.local.world import World, wait_for
from tests.mail import new_user

EVENTS = Path(__file__).parents[1] / "events" / "ses"
ORDER = """
    SELECT enqueue_job('email.custom', jsonb_build_object('recipient_kind', 'user', 'recipient_id', CAST(:user AS text),
        'subject', 'Opening hours', 'body', 'Closed on Friday.'), CAST(:tenant AS uuid)) AS id
"""


def test_mails_what_became_of_them_and_a_click_on_the_link(world: World) -> None:
    names = ("ana", "ben", "cem")
    with world.engine.begin() as tx:
        tenant = new_tenant(tx)
        users = [new_user(tx, tenant, f"{name}@example.com") for name in names]
    delivered, bounced, complained = (world.rows(ORDER, user=str(user), tenant=str(tenant))[0].id for user in users)
    world.relay()
    wait_for("the mails to be sent", lambda: states(world) == {"sent": 3}, seconds=60)
    found = mails(world.stack.endpoint)
    assert [mail.subject for mail in found] == ["Opening hours"] * 3

    listen_to_the_test(world)
    publish(
        world,
        event("delivery", delivered, tenant, "ana@example.com"),
        event("bounce_permanent", bounced, tenant, "ben@example.com"),
        event("complaint", complained, tenant, "cem@example.com"),
    )
    wait_for("the events", lambda: states(world) == {"delivered": 1, "bounced": 1, "complained": 1}, seconds=60)
    assert [tuple(row) for row in world.rows("SELECT address, reason FROM email_suppressions ORDER BY address")] == [
        ("ben@example.com", "bounce"),
        ("cem@example.com", "complaint"),
    ]
    assert sorted(row.kind for row in world.rows("SELECT kind FROM mail_events")) == ["bounce", "complaint", "delivery"]
    wait_for("the events' jobs", lambda: set(world.states()) == {"completed"}, seconds=60)
    assert world.rows("SELECT 1 FROM jobs WHERE type = 'email.event' AND payload::text LIKE '%@%'") == []

    [link] = [word.strip("<>()") for word in found[0].text.split() if "?token=" in word]
    assert link.startswith(f"{world.stack.endpoint}/"), "it leads to the function, on this machine"
    assert link in (found[0].html or "")
    assert '<form method="post">' in fetch(link)
    assert world.rows("SELECT 1 FROM notification_preferences") == []
    assert "You are unsubscribed" in fetch(link, data=b"")
    [preference] = world.rows("SELECT recipient_id, category, mode FROM notification_preferences")
    assert tuple(preference) == (users[0], "custom", "off")
    assert world.conservation().holds


def states(world: World) -> dict[str, int]:
    return {row.state: row.n for row in world.rows("SELECT state, count(*) AS n FROM email_messages GROUP BY state")}


def event(name: str, job: UUID, tenant: UUID, address: str) -> dict[str, Any]:
    """An event as SES documents it, about one of our mails."""
    detail: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())["detail"]
    detail["mail"]["destination"] = [address]
    detail["mail"]["tags"] |= {"job": [str(job)], "tenant": [str(tenant)]}
    for part, recipients in (("bounce", "bouncedRecipients"), ("complaint", "complainedRecipients")):
        if part in detail:
            detail[part][recipients] = [{"emailAddress": address}]
    if "delivery" in detail:
        detail["delivery"]["recipients"] = [address]
    return detail


def listen_to_the_test(world: World) -> None:
    """Nobody but AWS may send events as aws.ses: the rule takes the test's instead, and does the rest as it is."""
    events = world.stack.client("events")
    rule = f"{world.stack.name}-ses-events"
    pattern = events.describe_rule(Name=rule)["EventPattern"]
    events.put_rule(Name=rule, EventPattern=pattern.replace("aws.ses", "tests.ses"))


def publish(world: World, *details: dict[str, Any]) -> None:
    """To the default bus, as SES does."""
    configuration_set = f"arn:aws:ses:us-east-1:000000000000:configuration-set/{world.stack.name}-mail"
    entries = [
        {
            "Source": "tests.ses",
            "DetailType": f"Email {detail['eventType']}",
            "Detail": json.dumps(detail),
            "Resources": [configuration_set],
        }
        for detail in details
    ]
    assert world.stack.client("events").put_events(Entries=entries)["FailedEntryCount"] == 0


def fetch(url: str, data: bytes | None = None) -> str:
    """A page; with `data`, what its button asks for."""
    with urllib.request.urlopen(urllib.request.Request(url, data=data)) as page:
        text: str = page.read().decode()
    return text
