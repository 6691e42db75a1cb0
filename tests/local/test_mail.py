"""Mail on the deployed template: sent through the queue and SES, reported by the event rule, ended by the link."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from duecourse.local.mailbox import mails
from tests.harness import new_tenant
from tests.local.world import World, wait_for
from tests.mail import new_user

DETAIL = Path(__file__).parents[1] / "events" / "ses" / "bounce_permanent.json"
ORDER = """
    SELECT enqueue_job('email.custom', jsonb_build_object('recipient_kind', 'user', 'recipient_id', CAST(:user AS text),
        'subject', 'Opening hours', 'body', 'Closed on Friday.'), CAST(:tenant AS uuid), CAST(:user AS text)) AS id
"""


def test_a_mail_its_bounce_and_its_link(world: World) -> None:
    with world.engine.begin() as tx:
        tenant = new_tenant(tx)
        user = new_user(tx, tenant, "ana@example.com")
    [(job_id,)] = world.rows(ORDER, user=str(user), tenant=str(tenant))
    world.relay()
    wait_for("the mail to be sent", lambda: world.rows("SELECT 1 FROM email_messages WHERE state = 'sent'"), seconds=60)
    [mail] = mails(world.stack.endpoint)
    assert mail.subject == "Opening hours"

    detail = json.loads(DETAIL.read_text())["detail"]
    detail["mail"]["tags"] |= {"job": [str(job_id)], "tenant": [str(tenant)]}
    entry = {
        "Source": "tests.ses",
        "DetailType": "Email Bounced",
        "Detail": json.dumps(detail),
        "Resources": [f"arn:aws:ses:us-east-1:000000000000:configuration-set/{world.stack.name}-mail"],
    }
    # Nobody but AWS may send events as aws.ses: the rule listens to the test instead, and does the rest as it is.
    events = world.stack.client("events")
    rule = f"{world.stack.name}-ses-events"
    pattern = events.describe_rule(Name=rule)["EventPattern"]
    events.put_rule(Name=rule, EventPattern=pattern.replace("aws.ses", "tests.ses"))
    assert events.put_events(Entries=[entry])["FailedEntryCount"] == 0
    wait_for("the bounce", lambda: world.rows("SELECT 1 FROM email_messages WHERE state = 'bounced'"), seconds=60)
    [(reason,)] = world.rows("SELECT reason FROM email_suppressions WHERE address = 'ana@example.com'")
    assert reason == "bounce"

    link = mail.text.split(world.stack.outputs["UnsubscribeUrl"])[1].split()[0].strip("<>()")
    function_id = urlsplit(world.stack.outputs["UnsubscribeUrl"]).netloc.split(".")[0]
    url = f"{world.stack.endpoint}/_aws/lambda-url/{function_id}/{link}"
    with urllib.request.urlopen(url) as page:
        assert 'method="post"' in page.read().decode()
    assert world.rows("SELECT 1 FROM notification_preferences") == []
    request = urllib.request.Request(url, data=b"List-Unsubscribe=One-Click", method="POST")
    with urllib.request.urlopen(request) as page:
        assert "unsubscribed" in page.read().decode()
    assert len(world.rows("SELECT 1 FROM notification_preferences WHERE category = 'custom' AND mode = 'off'")) == 1
    assert world.conservation().holds
