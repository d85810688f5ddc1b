-- lease, holder, held_since
SELECT jobs.oban_leaders.name
FROM jobs.oban_leaders
WHERE jobs.oban_leaders.name = $1::VARCHAR AND jobs.oban_leaders.node = $2::VARCHAR AND jobs.oban_leaders.elected_at = $3::TIMESTAMP WITHOUT TIME ZONE AND jobs.oban_leaders.expires_at > timezone('UTC', clock_timestamp()) FOR SHARE
