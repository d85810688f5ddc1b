-- channel, payloads
SELECT pg_notify($1::VARCHAR, payload) AS pg_notify_1
FROM json_array_elements_text(CAST($2::VARCHAR AS JSON)) AS payload
