-- of_name, of_key, at_most, ticket, of_holder, holds, waits, n, per, algorithm, burst
SELECT answer.slot, answer.granted, answer.held, answer.ahead, answer.held_for, answer.rate_in
FROM public.oban_sa_slot(CAST($1::VARCHAR AS TEXT), CAST($2::VARCHAR AS TEXT), CAST($3::INTEGER AS INTEGER), CAST($4::BIGINT AS BIGINT), CAST($5::UUID AS UUID), CAST($6::FLOAT AS DOUBLE PRECISION), CAST($7::FLOAT AS DOUBLE PRECISION), CAST($8::INTEGER AS INTEGER), CAST($9::FLOAT AS DOUBLE PRECISION), CAST($10::VARCHAR AS TEXT), CAST($11::INTEGER AS INTEGER)) AS answer
