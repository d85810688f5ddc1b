-- lease, holder, held_since
SELECT public.oban_leaders.name
FROM public.oban_leaders
WHERE public.oban_leaders.name = $1::VARCHAR AND public.oban_leaders.node = $2::VARCHAR AND public.oban_leaders.elected_at = $3::TIMESTAMP WITHOUT TIME ZONE AND public.oban_leaders.expires_at > timezone('UTC', clock_timestamp()) FOR SHARE
