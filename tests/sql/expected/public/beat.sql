-- uuids
UPDATE public.oban_producers SET updated_at=greatest(least(public.oban_producers.updated_at, timezone('UTC', clock_timestamp())), timezone('UTC', now())) WHERE public.oban_producers.uuid = any(CAST($1::UUID[] AS UUID[])) RETURNING public.oban_producers.uuid
