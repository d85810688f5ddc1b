-- name
SELECT EXISTS (SELECT jobs.oban_peers.name
FROM jobs.oban_peers
WHERE jobs.oban_peers.expires_at > timezone('UTC', clock_timestamp()) AND (CAST($1::VARCHAR AS TEXT) IS NULL OR jobs.oban_peers.name = CAST($1::VARCHAR AS TEXT))) AS leads
