-- slot, of_holder
DELETE FROM jobs.oban_sa_leases WHERE jobs.oban_sa_leases.id = $1::BIGINT AND jobs.oban_sa_leases.holder = $2::UUID RETURNING jobs.oban_sa_leases.id
