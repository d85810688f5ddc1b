-- uuid, name, node, queue, meta
INSERT INTO jobs.oban_producers (uuid, name, node, queue, meta, started_at, updated_at) VALUES ($1::UUID, $2::VARCHAR, $3::VARCHAR, $4::VARCHAR, CAST($5::VARCHAR AS JSONB), timezone('UTC', now()), timezone('UTC', now())) ON CONFLICT (uuid) DO UPDATE SET meta = excluded.meta, updated_at = excluded.updated_at RETURNING (xmax = 0) AS fresh
