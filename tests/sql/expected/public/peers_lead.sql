-- name
SELECT EXISTS (SELECT public.oban_peers.name
FROM public.oban_peers
WHERE public.oban_peers.expires_at > timezone('UTC', clock_timestamp()) AND (CAST($1::VARCHAR AS TEXT) IS NULL OR public.oban_peers.name = CAST($1::VARCHAR AS TEXT))) AS leads
