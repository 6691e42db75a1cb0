"""SES: the account, the identity that mail comes from, and the events that come back."""

from __future__ import annotations

from collections.abc import Iterator

from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, warning

DKIM_BROKEN = frozenset({"PENDING", "FAILED", "TEMPORARY_FAILURE"})
DAILY_SHARE = 0.8
REDEPLOY = "deploy the current template again: it is part of infra/mail.yaml"
WANTED_EVENTS = frozenset({"SEND", "DELIVERY", "BOUNCE", "COMPLAINT", "DELIVERY_DELAY", "REJECT"})


def account(facts: Facts) -> Iterator[Fault]:
    """Whether SES sends for this account, and to anybody."""
    found = facts.client("sesv2").get_account()
    if not found.get("SendingEnabled", True):
        yield Fault(
            "SES sends nothing: sending is switched off", "aws sesv2 put-account-sending-attributes --sending-enabled"
        )
    if (status := found.get("EnforcementStatus", "HEALTHY")) != "HEALTHY":
        yield Fault(
            f"SES has put this account under review: {status}", "docs/runbooks/mail.md; answer AWS in the console"
        )
    if not found.get("ProductionAccessEnabled", True):
        yield warning(
            "SES is in its sandbox: it sends to verified addresses only, 200 mails a day",
            "aws sesv2 put-account-details --production-access-enabled --mail-type TRANSACTIONAL --website-url https://…",
        )
    quota = found.get("SendQuota", {})
    most, sent = quota.get("Max24HourSend", -1), quota.get("SentLast24Hours", 0)
    if most > 0 and sent >= DAILY_SHARE * most:
        yield warning(
            f"{sent:,.0f} of {most:,.0f} mails of the last 24 hours are sent",
            "aws service-quotas request-service-quota-increase --service-code ses --quota-code L-804C8AE8"
            f" --desired-value {2 * most:.0f}",
        )


def identity(facts: Facts) -> Iterator[Fault]:
    """Whether the address that mail comes from, or its domain, is verified and signs."""
    sender = facts.deployment.parameters.get("MailSender", "")
    domain = sender.rsplit("@", 1)[-1]
    if not domain or domain.endswith(".invalid"):
        yield warning(
            f"mail comes from {sender or 'nobody'}, which no mail can", "deploy with MailSender=you@your.domain"
        )
        return
    ses = facts.client("sesv2")
    for name in (sender, domain):
        try:
            found = ses.get_email_identity(EmailIdentity=name)
        except ses.exceptions.NotFoundException:
            continue
        if not found.get("VerifiedForSendingStatus"):
            yield Fault(
                f"{name} is not verified: SES refuses its mail", "set the DNS records of docs/deploy.md, and wait"
            )
        dkim = found.get("DkimAttributes", {})
        if not dkim.get("SigningEnabled") or dkim.get("Status") in DKIM_BROKEN:
            yield Fault(
                f"mail of {name} is not signed by DKIM ({dkim.get('Status', 'off')}): big providers refuse it",
                "set the DKIM records: aws sesv2 get-email-identity --query DkimAttributes.Tokens"
                f" --email-identity {name}",
            )
        return
    yield Fault(f"neither {sender} nor {domain} is an identity of SES", f"deploy with MailDomain={domain}")


def events(facts: Facts) -> Iterator[Fault]:
    """Whether the configuration set is there and reports every event that the ledger of mails needs."""
    name = f"{facts.deployment.name}-mail"
    ses = facts.client("sesv2")
    try:
        found = ses.get_configuration_set_event_destinations(ConfigurationSetName=name).get("EventDestinations", ())
    except ses.exceptions.NotFoundException:
        yield Fault(f"SES has no configuration set {name}: every mail is refused", REDEPLOY)
        return
    told = {
        kind
        for row in found
        if row["Enabled"] and "EventBridgeDestination" in row
        for kind in row["MatchingEventTypes"]
    }
    if missing := sorted(WANTED_EVENTS - told):
        yield Fault(
            f"SES does not report {', '.join(missing)}: bounces would not be known, mails stay in doubt",
            REDEPLOY,
        )
    rule = f"{facts.deployment.name}-ses-events"
    bus = facts.client("events")
    try:
        state = bus.describe_rule(Name=rule)["State"]
    except bus.exceptions.ResourceNotFoundException:
        yield Fault(f"the rule {rule} does not exist: what SES reports goes nowhere", REDEPLOY)
        return
    if state != "ENABLED":
        yield Fault(
            f"the rule {rule} is {state}: what SES reports goes nowhere", f"aws events enable-rule --name {rule}"
        )
