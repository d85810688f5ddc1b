-- since, missing, restored
UPDATE public.oban_producers SET updated_at=$1::TIMESTAMP WITHOUT TIME ZONE WHERE public.oban_producers.uuid = $2::UUID AND public.oban_producers.updated_at = $3::TIMESTAMP WITHOUT TIME ZONE
