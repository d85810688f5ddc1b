"""A trigger that notes the ends of members whichever program writes them, made where it is asked for."""

from __future__ import annotations

from typing import Final

from alembic.operations import Operations

from oban_sa.catalog.functions.function import Function
from oban_sa.migrations import ddl
from oban_sa.wire.messages import NODES, channel

TRIGGER: Final = "oban_sa_note_ending"


def _body(schema: str) -> str:
    """Return the code of the function: a note for the settlers, and one word to all of them for each transaction."""
    return f"""
        BEGIN
            INSERT INTO {ddl.quoted(schema)}.oban_sa_endings (lane, job_id)
            VALUES (CAST(NEW.meta ->> 'lane' AS smallint), NEW.id);
            PERFORM pg_catalog.pg_notify({ddl.literal(channel(schema, NODES))}, '{{"noted": true}}');
            RETURN NULL;
        END
    """  # noqa: S608 - the name of the schema is quoted


FUNCTION: Final = Function(TRIGGER, (), "trigger", _body)


def make_trigger(operations: Operations, schema: str) -> None:
    """Make the trigger unless it is there.

    Only rows of members that end call the function, and what a row of others costs is a look at its new state.
    """
    s = ddl.quoted(schema)
    ddl.make_function(operations, schema, FUNCTION)
    ddl.when(
        operations,
        f"NOT EXISTS ({_found(s)})",
        f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF state ON {s}.oban_jobs FOR EACH ROW WHEN ("
        "CAST(NEW.state AS text) IN ('completed', 'cancelled', 'discarded') AND NEW.state IS DISTINCT FROM OLD.state "
        f"AND NEW.meta ->> 'lane' ~ '^[0-7]$') EXECUTE FUNCTION {s}.{FUNCTION.signature}",
    )


def drop_trigger(operations: Operations, schema: str) -> None:
    """Drop the trigger and its function, where they are there."""
    s = ddl.quoted(schema)
    ddl.when(operations, f"EXISTS ({_found(s)})", f"DROP TRIGGER {TRIGGER} ON {s}.oban_jobs")
    ddl.drop_function(operations, schema, FUNCTION)


def _found(s: str) -> str:
    jobs = ddl.literal(f"{s}.oban_jobs")
    return f"SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = to_regclass({jobs}) AND tgname = '{TRIGGER}'"
