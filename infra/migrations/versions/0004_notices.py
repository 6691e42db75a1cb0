"""Who is told what: recipients' preferences, notices, mail with its limits, and what the e-mail types speak of."""

from alembic import op

revision = "0004"
down_revision = "0003"

RECIPIENTS = """
ALTER TABLE tenants
    ADD color text NOT NULL DEFAULT '#1f4e79' CHECK (color ~ '^#[0-9a-f]{6}$'),
    ADD logo_url text CHECK (logo_url ~ '^https://'),
    ADD locale text NOT NULL DEFAULT 'en',
    ADD mail_paused_at timestamptz,
    ADD mail_paused_reason text,
    ADD mail_resumed_at timestamptz,
    ADD mail_per_day integer NOT NULL DEFAULT 5000 CHECK (mail_per_day > 0),
    ADD CHECK ((mail_paused_at IS NULL) = (mail_paused_reason IS NULL));
COMMENT ON COLUMN tenants.mail_paused_at IS 'routine mail waits until an operator resumes it; critical mail goes on';
COMMENT ON COLUMN tenants.mail_resumed_at IS 'the circuit breaker counts from here on';

-- A recipient is a user or a client. Null means: as the tenant has it.
ALTER TABLE users   ADD locale text, ADD time_zone text REFERENCES time_zones,
                    ADD quiet_from time, ADD quiet_until time,
                    ADD CHECK ((quiet_from IS NULL) = (quiet_until IS NULL));
ALTER TABLE clients ADD locale text, ADD time_zone text REFERENCES time_zones,
                    ADD quiet_from time, ADD quiet_until time,
                    ADD CHECK ((quiet_from IS NULL) = (quiet_until IS NULL));

CREATE TABLE notification_preferences (
    tenant_id       uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    recipient_kind  text NOT NULL CHECK (recipient_kind IN ('user', 'client')),
    recipient_id    uuid NOT NULL,
    category        text NOT NULL,
    channel         text NOT NULL CHECK (channel IN ('email', 'in_app')),
    mode            text NOT NULL CHECK (mode IN ('immediate', 'digest', 'off')),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, recipient_kind, recipient_id, category, channel)
);
COMMENT ON TABLE notification_preferences IS 'no row: digest by e-mail, immediate in the application';
"""

NOTICES = """
-- One obligation, one notice: the unique constraint is the rule, not the planner's care.
CREATE TABLE notifications (
    id              uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    recipient_kind  text NOT NULL CHECK (recipient_kind IN ('user', 'client')),
    recipient_id    uuid NOT NULL,
    category        text NOT NULL CHECK (category IN ('document_expiry', 'filing')),
    subject_id      uuid NOT NULL,
    client_id       uuid NOT NULL,
    due_date        date NOT NULL,
    milestone       smallint NOT NULL,
    channel         text NOT NULL CHECK (channel IN ('email', 'in_app')),
    mode            text NOT NULL CHECK (mode IN ('immediate', 'digest')),
    local_date      date NOT NULL,
    status          text NOT NULL CHECK (status IN ('pending', 'sent', 'suppressed', 'failed')),
    reason          text,
    job_id          uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    sent_at         timestamptz,
    read_at         timestamptz,
    UNIQUE (tenant_id, recipient_kind, recipient_id, category, subject_id, due_date, milestone, channel),
    CHECK (status NOT IN ('suppressed', 'failed') OR reason IS NOT NULL),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
COMMENT ON COLUMN notifications.subject_id IS 'documents.id or filings.id, by category';
COMMENT ON COLUMN notifications.milestone IS 'days left that this notice announces; negative: days overdue';
COMMENT ON COLUMN notifications.local_date IS 'the tenant''s local date on which it was planned';
COMMENT ON COLUMN notifications.job_id IS 'the job whose mail carries it, once one does';
CREATE INDEX notifications_subject ON notifications (tenant_id, category, subject_id, due_date);
CREATE INDEX notifications_pending ON notifications (tenant_id, recipient_kind, recipient_id)
    WHERE status = 'pending' AND channel = 'email';
CREATE INDEX notifications_job ON notifications (job_id) WHERE status = 'pending' AND job_id IS NOT NULL;
CREATE INDEX notifications_unread ON notifications (tenant_id, recipient_kind, recipient_id, id)
    WHERE channel = 'in_app' AND read_at IS NULL;
"""

MAIL = """
CREATE TABLE email_messages (
    job_id              uuid PRIMARY KEY,
    tenant_id           uuid,
    type                text NOT NULL,
    critical            boolean NOT NULL,
    recipient_kind      text CHECK (recipient_kind IN ('user', 'client')),
    recipient_id        uuid,
    address             text NOT NULL,
    subject             text NOT NULL,
    state               text NOT NULL CHECK (state IN ('intended', 'sent', 'delivered', 'bounced', 'complained',
                                                       'rejected', 'failed', 'in_doubt')),
    sends               smallint NOT NULL DEFAULT 1,
    provider_id         text,
    error               text,
    intended_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at             timestamptz,
    settled_at          timestamptz
);
COMMENT ON TABLE email_messages IS 'one row a mail: committed before it is sent, completed after';
COMMENT ON COLUMN email_messages.sends IS 'how often the provider was asked to send it';
CREATE UNIQUE INDEX email_messages_provider ON email_messages (provider_id) WHERE provider_id IS NOT NULL;
CREATE INDEX email_messages_unsettled ON email_messages (intended_at) WHERE state = 'intended';
CREATE INDEX email_messages_tenant ON email_messages (tenant_id, intended_at);

CREATE TABLE email_suppressions (
    address     text PRIMARY KEY CHECK (address = lower(address)),
    reason      text NOT NULL CHECK (reason IN ('bounce', 'complaint', 'operator')),
    detail      text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE email_soft_bounces (
    address     text PRIMARY KEY CHECK (address = lower(address)),
    count       integer NOT NULL,
    last_at     timestamptz NOT NULL
);

-- The provider's limits. Slots are numbered, so that "200 in any 24 hours" is the slot 200 numbers back.
CREATE TABLE send_lanes (
    name            text PRIMARY KEY CHECK (name IN ('all', 'routine')),
    per_second      double precision NOT NULL CHECK (per_second > 0),
    per_day         integer NOT NULL CHECK (per_day > 0 OR per_day = -1),
    next_slot       bigint NOT NULL DEFAULT 1,
    waiting_until   timestamptz,
    limits_read_at  timestamptz
);
COMMENT ON COLUMN send_lanes.per_day IS '-1: unlimited';
COMMENT ON COLUMN send_lanes.waiting_until IS 'until when the last mail without a slot waits; the next one longer';
CREATE TABLE send_slots (
    lane        text NOT NULL REFERENCES send_lanes,
    number      bigint NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (lane, number)
);

CREATE TABLE send_counts (
    scope       text NOT NULL CHECK (scope IN ('tenant', 'recipient')),
    key         text NOT NULL,
    local_date  date NOT NULL,
    count       integer NOT NULL,
    PRIMARY KEY (scope, key, local_date)
);
COMMENT ON TABLE send_counts IS 'mails reserved per tenant, and per recipient, and local day';

CREATE TABLE mail_events (
    id          text PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('send', 'delivery', 'bounce', 'complaint', 'delay', 'reject', 'other')),
    job_id      uuid,
    tenant_id   uuid,
    at          timestamptz NOT NULL
);
COMMENT ON TABLE mail_events IS 'what the provider said, without addresses; the circuit breaker counts it';
CREATE INDEX mail_events_tenant ON mail_events (tenant_id, at);
CREATE INDEX mail_events_kind ON mail_events (kind, at);
"""

SPOKEN_OF = """
CREATE TABLE tasks (
    tenant_id   uuid NOT NULL,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    client_id   uuid NOT NULL,
    assignee_id uuid,
    title       text NOT NULL,
    due_date    date,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, assignee_id) REFERENCES tenant_users (tenant_id, user_id)
);
CREATE TABLE service_requests (
    tenant_id   uuid NOT NULL,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    client_id   uuid NOT NULL,
    title       text NOT NULL,
    status      text NOT NULL CHECK (status IN ('open', 'in_progress', 'waiting', 'resolved', 'closed')),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
CREATE TABLE invoices (
    tenant_id   uuid NOT NULL,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    client_id   uuid NOT NULL,
    number      text NOT NULL,
    amount      numeric(14, 2) NOT NULL,
    currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    due_date    date NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, number),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
"""


def upgrade() -> None:
    for statements in (RECIPIENTS, NOTICES, MAIL, SPOKEN_OF):
        op.execute(statements)


def downgrade() -> None:
    op.execute(
        "DROP TABLE invoices, service_requests, tasks, mail_events, send_counts, send_slots, send_lanes,"
        " email_soft_bounces, email_suppressions, email_messages, notifications, notification_preferences;"
        " ALTER TABLE clients DROP locale, DROP time_zone, DROP quiet_from, DROP quiet_until;"
        " ALTER TABLE users DROP locale, DROP time_zone, DROP quiet_from, DROP quiet_until;"
        " ALTER TABLE tenants DROP color, DROP logo_url, DROP locale, DROP mail_paused_at, DROP mail_paused_reason,"
        " DROP mail_resumed_at, DROP mail_per_day;"
    )
