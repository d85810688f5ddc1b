-- holds, ids, of_holder
UPDATE jobs.oban_sa_leases SET expires_at=(timezone('UTC', clock_timestamp()) + CAST($1::FLOAT AS DOUBLE PRECISION) * interval '1 second') WHERE jobs.oban_sa_leases.id = any(CAST($2::BIGINT[] AS BIGINT[])) AND jobs.oban_sa_leases.holder = $3::UUID RETURNING jobs.oban_sa_leases.id
