-- uuids, moments
SELECT public.oban_producers.uuid
FROM public.oban_producers JOIN unnest(CAST($1::UUID[] AS UUID[]), CAST($2::TIMESTAMP WITHOUT TIME ZONE[] AS TIMESTAMP WITHOUT TIME ZONE[])) AS said(uuid, moment) ON public.oban_producers.uuid = said.uuid
WHERE public.oban_producers.updated_at > said.moment
