"""What the database saw: every change of a job and every sign of life, written down by triggers.

Beside the ledger of the processes this says which attempt held a job when, to the microsecond, and in which transaction
it changed. A change that was rolled back leaves no trace, just as it should.
"""

from __future__ import annotations

STATEMENTS = (
    """CREATE TABLE chaos_changes (
        n bigserial, at timestamptz NOT NULL DEFAULT clock_timestamp(), txid bigint NOT NULL DEFAULT txid_current(),
        backend int NOT NULL DEFAULT pg_backend_pid(), job bigint NOT NULL,
        before text, after text, attempt_before int, attempt int, holder text, marked boolean)""",
    """CREATE FUNCTION chaos_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO chaos_changes (job, before, attempt_before) VALUES (OLD.id, OLD.state::text, OLD.attempt);
        ELSIF TG_OP = 'INSERT' THEN
            INSERT INTO chaos_changes (job, after, attempt) VALUES (NEW.id, NEW.state::text, NEW.attempt);
        ELSE
            INSERT INTO chaos_changes (job, before, after, attempt_before, attempt, holder, marked)
            VALUES (NEW.id, OLD.state::text, NEW.state::text, OLD.attempt, NEW.attempt, (NEW.attempted_by)[2],
                    NEW.meta ? 'cancel_attempted_at');
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER chaos_change AFTER INSERT OR UPDATE OR DELETE ON oban_jobs
        FOR EACH ROW EXECUTE FUNCTION chaos_change()""",
    """CREATE TABLE chaos_beats (
        n bigserial, at timestamp NOT NULL, what text NOT NULL, holder text NOT NULL, node text NOT NULL,
        queue text NOT NULL)""",
    """CREATE FUNCTION chaos_beat() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO chaos_beats (at, what, holder, node, queue)
            VALUES (timezone('UTC', clock_timestamp()), TG_OP, OLD.uuid::text, OLD.node, OLD.queue);
        ELSE
            -- The moment that the row itself has from now on: by it others say how long the node has been silent.
            INSERT INTO chaos_beats (at, what, holder, node, queue)
            VALUES (NEW.updated_at, TG_OP, NEW.uuid::text, NEW.node, NEW.queue);
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER chaos_beat AFTER INSERT OR UPDATE OR DELETE ON oban_producers
        FOR EACH ROW EXECUTE FUNCTION chaos_beat()""",
)
"""What makes the tables and their triggers."""

KIN_NODE = "kin"

KIN = f"""INSERT INTO oban_producers (uuid, name, node, queue, meta, started_at, updated_at) VALUES
    (gen_random_uuid(), 'Oban', '{KIN_NODE}', 'theirs', '{{}}', timezone('UTC', now()), timezone('UTC', now()))"""
"""A node of Oban for Python, as the tables show it: one that takes jobs for lost which began long ago."""

_OF_ALL = {
    "rows": "SELECT id, state::text, queue, worker, args, meta, attempt, max_attempts, to_jsonb(errors) AS errors,"
    " attempted_by, priority, cancelled_at IS NOT NULL AS cancelled_at, completed_at IS NOT NULL AS completed_at,"
    " discarded_at IS NOT NULL AS discarded_at FROM oban_jobs ORDER BY id",
    "changes": "SELECT n, extract(epoch FROM at)::float8 AS at, txid, backend, job, before, after, attempt_before,"
    " attempt, holder, marked FROM chaos_changes ORDER BY n",
    "beats": "SELECT extract(epoch FROM at)::float8 AS at, what, holder, node, queue FROM chaos_beats ORDER BY n",
    "producers": f"SELECT uuid::text AS holder, node, queue FROM oban_producers WHERE node <> '{KIN_NODE}'",
}

QUESTIONS = {**_OF_ALL, "effects": "SELECT job_id, attempt, holder, txid FROM chaos_effects"}
"""What is kept of the database at the end of a run, one file for each."""

QUESTIONS_OF_FLOWS = {
    **_OF_ALL,
    "effects": "SELECT job_id, txid FROM chaos_effects",
    "steps": "SELECT job_id, name FROM chaos_steps",
    "flows": "SELECT id::text, root_id::text, path::text[], kind, total, unfinished, completed, cancelled, discarded,"
    " completed_at IS NOT NULL AS over FROM oban_sa_flows ORDER BY id",
    "members": "SELECT job_id, flow_id::text, name, waiting, settled::text, holds::text[] FROM oban_sa_members",
    "edges": "SELECT parent_id, child_id, forgives FROM oban_sa_edges",
    "gates": "SELECT flow_id::text, child_id, forgives FROM oban_sa_gates",
    "notes": "SELECT lane, job_id, flow_id::text FROM oban_sa_endings",
    "signals": "SELECT job_id, name, payload FROM oban_sa_signals",
}
"""The same for workflows and batches."""
