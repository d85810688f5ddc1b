"""Statements that the database runs where it finds a condition true."""

from __future__ import annotations

from itertools import count
from textwrap import dedent, indent


def block(condition: str, *statements: str) -> str:
    """Return one statement, a DO block in plpgsql, that runs others where `condition` is true."""
    body = ";\n".join(dedent(statement).strip() for statement in statements)
    written = f"BEGIN\nIF {condition} THEN\n{indent(body, '    ')};\nEND IF;\nEND"
    # The name of a schema may contain a tag, which would end the block, and the rest of the name would be run.
    tag = next(tag for number in count() if (tag := f"$oban{number or ''}$") not in written)
    return f"DO {tag}\n{written}\n{tag}"
