"""The function that counts how many more jobs of a queue may execute; and all functions that limits need."""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.functions.isolation import only_read_committed
from oban_sa.catalog.functions.partitions import RING
from oban_sa.catalog.functions.rates import RATE
from oban_sa.catalog.functions.slots import SLOT
from oban_sa.catalog.names import literal, quoted


def _free(schema: str) -> str:
    """Lock a queue until the transaction ends: how many more of its jobs may execute."""
    return f"""
        BEGIN
            {only_read_committed()}
            PERFORM pg_catalog.pg_advisory_xact_lock(
                pg_catalog.hashtextextended({literal(f"oban_sa {schema} ")} || of_queue, 1)
            );
            RETURN (
                SELECT global_limit - pg_catalog.count(*)
                FROM (
                    SELECT FROM {quoted(schema)}.oban_jobs AS j
                    WHERE j.state = 'executing' AND j.queue = of_queue
                    LIMIT global_limit
                ) AS executing
            );
        END
    """  # noqa: S608 - the name of the schema is quoted


FREE: Final = Function("oban_sa_free", (("of_queue", "text"), ("global_limit", "integer")), "integer", _free)

FUNCTIONS: Final = (FREE, RATE, RING, SLOT)
"""All, in an order in which they can be made."""
