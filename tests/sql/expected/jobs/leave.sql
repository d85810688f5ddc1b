-- uuids
DELETE FROM jobs.oban_producers WHERE jobs.oban_producers.uuid = any(CAST($1::UUID[] AS UUID[]))
