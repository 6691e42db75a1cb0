"""Days on record: every day of every tenant has its run and, where it did not run, the reason; scores never go back.

What was missed before this had come due too long ago: that was the only way to miss a day.
"""

from alembic import op

revision = "0015"
down_revision = "0014"

DAYS = """
ALTER TABLE schedule_runs ADD reason text;
COMMENT ON COLUMN schedule_runs.reason IS
    'why a day was missed. off: the schedule was off at its time, or until a tick could plan it;'
    ' too_late: no tick came within the catch-up';
UPDATE schedule_runs SET reason = 'too_late' WHERE outcome = 'missed';
ALTER TABLE schedule_runs ADD CONSTRAINT schedule_runs_reason
    CHECK (reason IN ('off', 'too_late'));

ALTER TABLE schedules
    ADD exists_since timestamptz NOT NULL DEFAULT now(),
    ADD planned_until timestamptz;
ALTER TABLE schedules ALTER planned_until SET DEFAULT now();
COMMENT ON COLUMN schedules.exists_since IS 'days before it have no run: the schedule was not there yet';
COMMENT ON COLUMN schedules.planned_until IS
    'every day that came due before it has its run: where the next tick goes on after an outage; null: nobody knows';

-- Who says that a schedule was on at some time says that it existed, and that its days of then may have no runs yet.
CREATE FUNCTION schedules_exist_since() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.enabled_since < NEW.exists_since THEN
        NEW.exists_since := NEW.enabled_since;
        NEW.planned_until := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER schedules_exist_since BEFORE INSERT OR UPDATE OF enabled_since ON schedules
    FOR EACH ROW EXECUTE FUNCTION schedules_exist_since();
"""

# The oldest that is known of each schedule; the days since are on record, as far back as its ticks looked.
KNOWN = """
UPDATE schedules s SET exists_since = least(s.exists_since, s.enabled_since, known.first), planned_until = known.last
FROM (SELECT schedule, min(due_at) AS first, max(planned_at) AS last FROM schedule_runs GROUP BY schedule) AS known
WHERE known.schedule = s.name;
UPDATE schedules SET enabled_since = enabled_since WHERE enabled_since < exists_since;
"""

REFRESHES = """
CREATE TABLE compliance_refreshes (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    as_of       date NOT NULL
);
COMMENT ON TABLE compliance_refreshes IS 'as of which local date a tenant''s scores are, changed or not';
INSERT INTO compliance_refreshes (tenant_id, as_of)
SELECT tenant_id, max(as_of) FROM (
    SELECT tenant_id, as_of FROM compliance_scores
    UNION ALL
    SELECT r.tenant_id, r.local_date FROM schedule_runs r JOIN jobs j ON j.id = r.job_id
    WHERE r.schedule = 'daily-compliance-refresh' AND r.local_date > current_date - 8 AND j.state = 'completed'
) AS known
GROUP BY tenant_id;
"""


def upgrade() -> None:
    for statements in (DAYS, KNOWN, REFRESHES):
        op.execute(statements)


def downgrade() -> None:
    op.execute(
        "DROP TABLE compliance_refreshes;"
        " DROP TRIGGER schedules_exist_since ON schedules; DROP FUNCTION schedules_exist_since();"
        " ALTER TABLE schedules DROP exists_since, DROP planned_until;"
        " ALTER TABLE schedule_runs DROP reason"
    )
