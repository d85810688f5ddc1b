-- uuids
UPDATE jobs.oban_producers SET updated_at=greatest(least(jobs.oban_producers.updated_at, timezone('UTC', clock_timestamp())), timezone('UTC', now())) WHERE jobs.oban_producers.uuid = any(CAST($1::UUID[] AS UUID[])) RETURNING jobs.oban_producers.uuid
