-- uuids
DELETE FROM jobs.oban_producers WHERE CAST(jobs.oban_producers.uuid AS TEXT) = any(CAST($1::TEXT[] AS TEXT[])) AND NOT (EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'executing' AND CAST(jobs.oban_producers.uuid AS TEXT) = jobs.oban_jobs.attempted_by[2]))
