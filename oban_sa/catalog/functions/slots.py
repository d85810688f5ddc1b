"""The function that takes a slot of a limit outside of jobs, or a place among those that wait for one."""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.functions.isolation import only_read_committed
from oban_sa.catalog.names import literal, quoted

_PARAMETERS: Final = (
    ("of_name", "text"),
    ("of_key", "text"),
    ("at_most", "integer"),
    ("ticket", "bigint"),
    ("of_holder", "uuid"),
    ("holds", "double precision"),
    ("waits", "double precision"),
    ("n", "integer"),
    ("per", "double precision"),
    ("algorithm", "text"),
    ("burst", "integer"),
)
_RETURNING: Final = "TABLE (slot bigint, granted boolean, held integer, ahead integer, held_for float8, rate_in float8)"


def _body(schema: str) -> str:
    """Return the code of the function.

    A row of `oban_sa_leases` is a slot that is held, or where `taken_at` is NULL a ticket: the place of one that waits.
    The limit is `at_most` rows that are held (NULL sets none), and a rate as `oban_sa_rate` takes it (`n` NULL sets
    none). A slot is granted if there is one more than those need that wait before the `ticket`, or without one than all
    that wait. It is held for `holds` seconds, unless that is renewed. Otherwise a ticket is written or kept for
    `waits` seconds, or deleted where that is 0.

    `slot` is the id of the row, NULL where there is none. `held` and `ahead` are how many hold and wait before this
    one, `held_for` the seconds since the oldest slot was taken, and `rate_in` those until the rate allows one, NULL
    where it does or was not asked.

    Each query in it has a snapshot of its own, since the function is volatile, so that it sees what was committed while
    it waited for the lock. A row is there until it is deleted here, however long ago it has expired: what is counted
    and what its holder can renew is the same. A row that is just being renewed is left.
    """
    s = quoted(schema)
    rate = f"{s}.oban_sa_rate('limit:' || of_name, of_key, n, per, algorithm, burst,"
    return f"""
        DECLARE
            moment timestamp;
        BEGIN
            {only_read_committed()}
            PERFORM pg_catalog.pg_advisory_xact_lock(
                pg_catalog.hashtextextended({literal(f"oban_sa {schema} ")} || of_name || E'\\n' || of_key, 2)
            );
            moment := pg_catalog.timezone('UTC', pg_catalog.clock_timestamp());
            DELETE FROM {s}.oban_sa_leases AS l WHERE l.id = ANY (ARRAY(
                SELECT e.id FROM {s}.oban_sa_leases AS e
                WHERE e.name = of_name AND e.key = of_key AND e.expires_at <= moment
                FOR UPDATE SKIP LOCKED
            ));
            SELECT pg_catalog.count(*) FILTER (WHERE l.taken_at IS NOT NULL),
                pg_catalog.count(*) FILTER (WHERE l.taken_at IS NULL AND (ticket IS NULL OR l.id < ticket)),
                extract(epoch FROM moment - pg_catalog.min(l.taken_at))
            INTO held, ahead, held_for
            FROM {s}.oban_sa_leases AS l WHERE l.name = of_name AND l.key = of_key;

            granted := at_most IS NULL OR held + ahead < at_most;
            IF granted AND n IS NOT NULL THEN
                granted := {rate} NULL, NULL, moment) > ahead;
                IF granted THEN
                    PERFORM {rate} 1, 1, moment);
                ELSE
                    rate_in := {rate} 0, ahead + 1, moment);
                END IF;
            END IF;

            IF granted AND at_most IS NOT NULL THEN
                UPDATE {s}.oban_sa_leases AS l
                SET taken_at = moment, expires_at = moment + holds * interval '1 second'
                WHERE l.id = ticket AND l.holder = of_holder
                RETURNING l.id INTO slot;
                IF slot IS NULL THEN
                    INSERT INTO {s}.oban_sa_leases AS l (name, key, holder, taken_at, expires_at)
                    VALUES (of_name, of_key, of_holder, moment, moment + holds * interval '1 second')
                    RETURNING l.id INTO slot;
                END IF;
            ELSIF NOT granted AND waits > 0 THEN
                -- Written anew only when half of its time is over: those that wait ask often.
                UPDATE {s}.oban_sa_leases AS l SET expires_at = moment + waits * interval '1 second'
                WHERE l.id = ticket AND l.expires_at < moment + waits / 2 * interval '1 second';
                SELECT l.id INTO slot FROM {s}.oban_sa_leases AS l WHERE l.id = ticket;
                IF slot IS NULL THEN
                    INSERT INTO {s}.oban_sa_leases AS l (name, key, holder, taken_at, expires_at)
                    VALUES (of_name, of_key, of_holder, NULL, moment + waits * interval '1 second')
                    RETURNING l.id INTO slot;
                END IF;
            ELSIF ticket IS NOT NULL THEN
                DELETE FROM {s}.oban_sa_leases AS l WHERE l.id = ticket AND l.holder = of_holder;
            END IF;
            RETURN NEXT;
        END
    """  # noqa: S608 - the name of the schema is quoted


SLOT: Final = Function("oban_sa_slot", _PARAMETERS, _RETURNING, _body)
