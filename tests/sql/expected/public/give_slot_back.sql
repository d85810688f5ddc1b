-- slot, of_holder
DELETE FROM public.oban_sa_leases WHERE public.oban_sa_leases.id = $1::BIGINT AND public.oban_sa_leases.holder = $2::UUID RETURNING public.oban_sa_leases.id
