"""The circuit breaker of each sending tenant: bad addresses and complaints pause its routine mail.

SES reviews an account from a bounce rate of 5 % and a complaint rate of 0.1 % on, and stops all its mail soon after:
one tenant's bad list must not silence the others.
https://docs.aws.amazon.com/ses/latest/dg/reputation-dashboard-dg.html
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, text

WINDOW = timedelta(days=7)
FEWEST_SENDS = 50
"""Fewer say nothing about a rate."""
BOUNCE_RATE = 0.05
COMPLAINT_RATE = 0.001

TRIP = text("""
    WITH counted AS (
        SELECT t.id,
            count(*) FILTER (WHERE e.kind = 'send') AS sends,
            count(*) FILTER (WHERE e.kind = 'bounce') AS bounces,
            count(*) FILTER (WHERE e.kind = 'complaint') AS complaints
        FROM tenants t
        JOIN mail_events e ON e.tenant_id = t.id
            AND e.at > greatest(clock_timestamp() - CAST(:window AS interval), t.mail_resumed_at)
        WHERE t.id = ANY(CAST(:tenants AS uuid[])) AND t.mail_paused_at IS NULL
        GROUP BY t.id
    )
    UPDATE tenants AS t SET
        mail_paused_at = clock_timestamp(),
        mail_paused_reason = CASE
            WHEN c.complaints > CAST(:complaint_rate AS float8) * c.sends
                THEN format('complaint rate %s %% (%s of %s mails in 7 days), over %s %%',
                            round(100.0 * c.complaints / c.sends, 2), c.complaints, c.sends,
                            CAST(100 * CAST(:complaint_rate AS numeric) AS real))
            ELSE format('bounce rate %s %% (%s of %s mails in 7 days), over %s %%',
                        round(100.0 * c.bounces / c.sends, 2), c.bounces, c.sends,
                        CAST(100 * CAST(:bounce_rate AS numeric) AS real))
        END
    FROM counted c
    WHERE t.id = c.id AND t.mail_paused_at IS NULL AND c.sends >= :fewest
      AND (c.bounces > CAST(:bounce_rate AS float8) * c.sends
           OR c.complaints > CAST(:complaint_rate AS float8) * c.sends)
    RETURNING t.id, t.mail_paused_reason
""")

RESUME = text("""
    UPDATE tenants SET mail_paused_at = NULL, mail_paused_reason = NULL, mail_resumed_at = clock_timestamp()
    WHERE id = :tenant AND mail_paused_at IS NOT NULL
""")


def trip(tx: Connection, tenants: Sequence[str]) -> list[UUID]:
    """Pause the routine mail of those of these tenants whose rates are too high. Returns who was paused just now."""
    from functions.pipeline import observe

    limits = {"bounce_rate": BOUNCE_RATE, "complaint_rate": COMPLAINT_RATE, "fewest": FEWEST_SENDS}
    rows = tx.execute(TRIP, {"tenants": list(tenants), "window": WINDOW, **limits}).all()
    for row in rows:
        observe.logger().error("tenant_mail_paused", tenant_id=str(row.id), reason=row.mail_paused_reason)
    return [row.id for row in rows]


def resume(tx: Connection, tenant_id: UUID) -> bool:
    """Let a tenant's routine mail go on, its rates counted anew from here. Returns whether it was paused."""
    return bool(tx.execute(RESUME, {"tenant": tenant_id}).rowcount)
