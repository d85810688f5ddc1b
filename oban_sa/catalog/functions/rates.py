"""The function that says how many starts a rate has left, and spends them."""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.functions.isolation import only_read_committed
from oban_sa.catalog.names import quoted


def _rate(schema: str) -> str:
    """Lock a rate until the transaction ends, and return how many starts it has left; or spend some.

    Where `spends` is NULL the answer is what is left now. Otherwise so many are spent, `at` a moment in UTC, and the
    answer is the seconds until `wants` more can be, or NULL where they can be now. Where `spends` is negative so many
    are given back that were spent `at` that moment, and the answer is NULL; a bucket gets only what it surely lacks.

    Sliding: starts in slices of a 60th of the period. All slices that reach into the period before now count whole, so
    that no period has more than `n`. Fixed: one slice, as long as the period, counted from 1970 on. Bucket: `full_at`
    is when it is full again; each start puts that off by `per / n`.

    A rate that has become another one keeps what was spent lately, as if it had all been spent now.
    """
    s = quoted(schema)
    return f"""
        DECLARE
            keep integer := CASE algorithm WHEN 'sliding' THEN 61 WHEN 'fixed' THEN 1 ELSE 0 END;
            slice float8 := CASE algorithm WHEN 'sliding' THEN per / 60 WHEN 'fixed' THEN per ELSE 0 END;
            cost float8 := per / n;
            room integer := coalesce(burst, n);
            kept record;
            moment float8;
            debt float8;
            lately bigint := 0;
            used bigint := 0;
            slots integer[];
            latest bigint;
            passed bigint;
        BEGIN
            {only_read_committed()}
            LOOP
                SELECT r.width, r.newest, r.counts, r.full_at INTO kept
                FROM {s}.oban_sa_rates AS r WHERE r.name = of_name AND r.key = of_key FOR UPDATE;
                EXIT WHEN FOUND;
                INSERT INTO {s}.oban_sa_rates (name, key) VALUES (of_name, of_key) ON CONFLICT DO NOTHING;
            END LOOP;
            -- What another program wrote is no reason for a queue to stop: the rate begins anew.
            IF NOT pg_catalog.isfinite(kept.full_at)
                OR kept.newest NOT BETWEEN -4503599627370496 AND 4503599627370496
                OR pg_catalog.array_ndims(kept.counts) > 1 OR pg_catalog.array_lower(kept.counts, 1) <> 1
                OR EXISTS (SELECT FROM pg_catalog.unnest(kept.counts) AS each WHERE each IS NULL OR each < 0)
            THEN
                kept.newest := 0;
                kept.counts := '{{}}';
                kept.full_at := NULL;
            END IF;
            -- Read after the lock: two that wait for each other see the moments in the order in which they spend.
            moment := extract(epoch FROM coalesce(at, pg_catalog.timezone('UTC', pg_catalog.clock_timestamp())));
            debt := greatest(coalesce(extract(epoch FROM kept.full_at), 0) - moment, 0);

            IF spends < 0 THEN
                passed := keep + floor(moment / CASE WHEN keep > 0 THEN slice ELSE 1 END) - kept.newest;
                IF keep > 0 AND kept.width = slice AND pg_catalog.cardinality(kept.counts) = keep
                    AND passed BETWEEN 1 AND keep
                THEN
                    UPDATE {s}.oban_sa_rates AS r
                    SET counts[passed::integer] = greatest(r.counts[passed::integer] + spends, 0)
                    WHERE r.name = of_name AND r.key = of_key;
                -- Until then it can't have been full since, so that all of it is still lacking.
                ELSIF keep = 0 AND pg_catalog.cardinality(kept.counts) = 0
                    AND extract(epoch FROM pg_catalog.clock_timestamp()) < moment - spends * cost
                THEN
                    UPDATE {s}.oban_sa_rates AS r SET full_at = r.full_at + spends * cost * interval '1 second'
                    WHERE r.name = of_name AND r.key = of_key;
                END IF;
                RETURN NULL;
            END IF;

            IF keep = 0 THEN
                IF pg_catalog.cardinality(kept.counts) > 0 AND debt > 0 THEN
                    SELECT pg_catalog.sum(each) INTO lately FROM pg_catalog.unnest(kept.counts) AS each;
                    debt := lately * cost;
                END IF;
                debt := least(debt, room * cost);
                IF spends IS NULL THEN
                    RETURN floor((room * cost - debt) / cost);
                END IF;
                debt := debt + spends * cost;
                IF spends > 0 THEN
                    UPDATE {s}.oban_sa_rates AS r
                    SET width = 0, newest = 0, counts = '{{}}', full_at = pg_catalog.timezone(
                        'UTC', pg_catalog.to_timestamp(ceil((moment + debt) * 1000000) / 1000000)
                    )
                    WHERE r.name = of_name AND r.key = of_key;
                END IF;
                debt := debt - (room - least(wants, room)) * cost;
                RETURN CASE WHEN debt > 0 THEN debt END;
            END IF;

            latest := floor(moment / slice);
            passed := latest - kept.newest;
            IF kept.width = slice AND pg_catalog.cardinality(kept.counts) = keep AND passed >= -keep THEN
                IF passed <= 0 THEN
                    latest := kept.newest;
                    slots := kept.counts;
                ELSIF passed < keep THEN
                    slots := kept.counts[passed + 1:] || pg_catalog.array_fill(0, ARRAY[passed::integer]);
                ELSE
                    slots := pg_catalog.array_fill(0, ARRAY[keep]);
                END IF;
            ELSE
                slots := pg_catalog.array_fill(0, ARRAY[keep]);
                IF debt > 0 AND pg_catalog.cardinality(kept.counts) > 0 THEN
                    SELECT pg_catalog.sum(each) INTO lately FROM pg_catalog.unnest(kept.counts) AS each;
                ELSE
                    lately := least(ceil(debt / cost), n);
                END IF;
                slots[keep] := least(lately, n);
            END IF;
            FOR place IN 1..keep LOOP
                used := used + slots[place];
            END LOOP;
            IF spends IS NULL THEN
                RETURN greatest(n - used, 0);
            END IF;
            IF spends > 0 THEN
                slots[keep] := least(slots[keep] + spends, 2147483647);
                used := used + spends;
                UPDATE {s}.oban_sa_rates AS r
                SET width = slice, newest = latest, counts = slots,
                    full_at = pg_catalog.timezone('UTC', pg_catalog.to_timestamp((latest + keep) * slice))
                WHERE r.name = of_name AND r.key = of_key;
            END IF;
            used := used + least(wants, n) - n;
            FOR place IN 1..keep LOOP
                EXIT WHEN used <= 0;
                used := used - slots[place];
                IF used <= 0 THEN
                    -- When this slice no longer reaches into the period.
                    RETURN greatest((latest + place) * slice - moment, 0);
                END IF;
            END LOOP;
            RETURN NULL;
        END
    """  # noqa: S608 - the name of the schema is quoted


_PARAMETERS: Final = (
    ("of_name", "text"),
    ("of_key", "text"),
    ("n", "integer"),
    ("per", "double precision"),
    ("algorithm", "text"),
    ("burst", "integer"),
    ("spends", "bigint"),
    ("wants", "integer"),
    ("at", "timestamp without time zone"),
)
RATE: Final = Function("oban_sa_rate", _PARAMETERS, "double precision", _rate)
