"""Tenants, their people, clients, documents, filings and compliance scores.

Every table of a tenant carries tenant_id in its primary and foreign keys, so that a row of one tenant can never
point at another's.
"""

from alembic import op

revision = "0001"
down_revision = None

UPGRADE = """
CREATE TABLE time_zones (name text PRIMARY KEY);
COMMENT ON TABLE time_zones IS 'IANA zones known to the runtime''s tzdata; kept by migrate';

CREATE TABLE tenants (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL CHECK (name <> ''),
    time_zone   text NOT NULL REFERENCES time_zones,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenants_time_zone ON tenants (time_zone);

CREATE TABLE users (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email       text NOT NULL,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE tenant_users (
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role        text NOT NULL CHECK (role IN ('manager', 'staff', 'viewer')),
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX tenant_users_user ON tenant_users (user_id);

CREATE TABLE clients (
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    name        text NOT NULL,
    email       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE client_assignments (
    tenant_id   uuid NOT NULL,
    client_id   uuid NOT NULL,
    user_id     uuid NOT NULL,
    PRIMARY KEY (tenant_id, client_id, user_id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES tenant_users ON DELETE CASCADE
);
CREATE INDEX client_assignments_user ON client_assignments (tenant_id, user_id);

CREATE TABLE document_types (
    code        text PRIMARY KEY,
    name        text NOT NULL
);

CREATE TABLE documents (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    client_id       uuid NOT NULL,
    document_type   text NOT NULL REFERENCES document_types,
    status          text NOT NULL CHECK (status IN ('pending_review', 'valid', 'rejected', 'archived')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
CREATE INDEX documents_client ON documents (tenant_id, client_id);

CREATE TABLE document_versions (
    tenant_id       uuid NOT NULL,
    document_id     uuid NOT NULL,
    version         integer NOT NULL CHECK (version >= 1),
    expiry_date     date,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, document_id, version),
    FOREIGN KEY (tenant_id, document_id) REFERENCES documents ON DELETE CASCADE
);

CREATE TABLE filing_types (
    code        text PRIMARY KEY,
    name        text NOT NULL
);

CREATE TABLE filings (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    client_id       uuid NOT NULL,
    filing_type     text NOT NULL REFERENCES filing_types,
    status          text NOT NULL CHECK (status IN ('draft', 'prepared', 'filed', 'cancelled')),
    due_date        date NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
CREATE INDEX filings_client ON filings (tenant_id, client_id);

CREATE TABLE compliance_scores (
    tenant_id   uuid NOT NULL,
    client_id   uuid NOT NULL,
    score       smallint NOT NULL CHECK (score BETWEEN 0 AND 100),
    level       text NOT NULL CHECK (level IN ('low', 'medium', 'high')),
    missing     integer NOT NULL,
    expiring    integer NOT NULL,
    overdue     integer NOT NULL,
    as_of       date NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, client_id),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
COMMENT ON COLUMN compliance_scores.as_of IS 'the tenant''s local date of the last change, not of the last run';

CREATE TABLE compliance_score_history (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    client_id   uuid NOT NULL,
    score       smallint NOT NULL,
    level       text NOT NULL,
    missing     integer NOT NULL,
    expiring    integer NOT NULL,
    overdue     integer NOT NULL,
    as_of       date NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, client_id) REFERENCES clients ON DELETE CASCADE
);
CREATE INDEX compliance_score_history_client ON compliance_score_history (tenant_id, client_id, id);
"""

DOWNGRADE = """
DROP TABLE compliance_score_history, compliance_scores, filings, filing_types, document_versions, documents,
    document_types, client_assignments, clients, tenant_users, users, tenants, time_zones;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
