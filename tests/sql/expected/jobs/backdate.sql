-- since, missing, restored
UPDATE jobs.oban_producers SET updated_at=$1::TIMESTAMP WITHOUT TIME ZONE WHERE jobs.oban_producers.uuid = $2::UUID AND jobs.oban_producers.updated_at = $3::TIMESTAMP WITHOUT TIME ZONE
