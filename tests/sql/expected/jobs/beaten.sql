-- uuids, moments
SELECT jobs.oban_producers.uuid
FROM jobs.oban_producers JOIN unnest(CAST($1::UUID[] AS UUID[]), CAST($2::TIMESTAMP WITHOUT TIME ZONE[] AS TIMESTAMP WITHOUT TIME ZONE[])) AS said(uuid, moment) ON jobs.oban_producers.uuid = said.uuid
WHERE jobs.oban_producers.updated_at > said.moment
