-- uuids
UPDATE public.oban_producers SET updated_at=timezone('UTC', now()) WHERE public.oban_producers.uuid = any(CAST($1::UUID[] AS UUID[])) RETURNING public.oban_producers.uuid
