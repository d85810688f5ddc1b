-- holds, ids, of_holder
UPDATE public.oban_sa_leases SET expires_at=(timezone('UTC', clock_timestamp()) + CAST($1::FLOAT AS DOUBLE PRECISION) * interval '1 second') WHERE public.oban_sa_leases.id = any(CAST($2::BIGINT[] AS BIGINT[])) AND public.oban_sa_leases.holder = $3::UUID RETURNING public.oban_sa_leases.id
