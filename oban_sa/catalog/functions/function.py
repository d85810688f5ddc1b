"""A function of ours in the database: its code, the statements that make it, and how an outdated one is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from textwrap import dedent
from typing import Final, NamedTuple

from oban_sa.catalog.names import OURS, literal, quoted

MARK: Final = "-- Made by oban_sa\n"
"""The first line of the body of a function that oban_sa made. A dump without comments keeps it."""

DIGEST: Final = "encode(sha256(convert_to(regexp_replace(prosrc, E'[ \\n\\r\\t]+', ' ', 'g'), 'UTF8')), 'hex')"
"""The expression, on `pg_proc`, that is equal to `Function.digest` where the function is up to date."""


class Function(NamedTuple):
    """A function in plpgsql: the name and type of each parameter, the type of the result, and the body in a schema.

    Types are written as `oidvectortypes` does, so that what the catalog says can be compared: `double precision`.
    """

    name: str
    parameters: tuple[tuple[str, str], ...]
    returning: str
    body: Callable[[str], str]

    @property
    def signature(self) -> str:
        """The name with the types of the parameters, as the catalog has it: `oban_sa_free(text, integer)`."""
        return f"{self.name}({', '.join(type_ for _, type_ in self.parameters)})"

    def named(self, schema: str) -> str:
        """Return the signature with the schema, for a statement and, as a literal, for `to_regprocedure`."""
        return f"{quoted(schema)}.{self.signature}"

    def source(self, schema: str) -> str:
        """Return the text of the body, as `pg_proc.prosrc` keeps it."""
        # Without empty lines: in a script one stands between two statements, and in none of them.
        return MARK + "".join(f"{line}\n" for line in dedent(self.body(schema)).splitlines() if line.strip())

    def digest(self, schema: str) -> str:
        """Return what `DIGEST` gives for this release's body."""
        return sha256(re.sub("[ \n\r\t]+", " ", self.source(schema)).encode()).hexdigest()

    def make(self, schema: str) -> tuple[str, str]:
        """Return the statements that make it, or give ours the body of this release and keep its grants."""
        parameters = ", ".join(f"{name} {type_}" for name, type_ in self.parameters)
        head = f"CREATE OR REPLACE FUNCTION {quoted(schema)}.{self.name}({parameters}) RETURNS {self.returning}"
        return (
            f"{head} LANGUAGE plpgsql AS {literal(self.source(schema))}",
            f"COMMENT ON FUNCTION {self.named(schema)} IS '{OURS}'",
        )

    def is_wanted(self, schema: str) -> str:
        """Return the condition that no function has this name and these types, or that ours has another body."""
        outdated = _about(self, schema, f"{_MARKED} AND {DIGEST} <> '{self.digest(schema)}'")
        return f"to_regprocedure({literal(self.named(schema))}) IS NULL OR {outdated}"

    def is_ours(self, schema: str) -> str:
        """Return the condition that oban_sa made the function: CREATE OR REPLACE keeps a comment, but not the body."""
        return _about(self, schema, f"{_MARKED} AND obj_description(oid, 'pg_proc') = '{OURS}'")


_MARKED: Final = f"starts_with(prosrc, {literal(MARK)})"


def _about(function: Function, schema: str, condition: str) -> str:
    return (
        "EXISTS (\n    SELECT FROM pg_catalog.pg_proc\n"
        f"    WHERE oid = to_regprocedure({literal(function.named(schema))})\n    AND {condition}\n)"
    )
