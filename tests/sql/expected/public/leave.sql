-- uuids
DELETE FROM public.oban_producers WHERE public.oban_producers.uuid = any(CAST($1::UUID[] AS UUID[]))
