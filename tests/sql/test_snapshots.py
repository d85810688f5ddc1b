"""What runners and applications send, word for word, in two schemas.

Where a statement was meant to change, write it down anew and look at the difference:

    OBAN_UPDATE_STATEMENTS=1 pytest tests/sql/test_snapshots.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy

from tests.sql.compiling import INSERTS, STATEMENTS, compiled

EXPECTED = Path(__file__).parent / "expected"
ALL = STATEMENTS | INSERTS
UPDATING = bool(os.environ.get("OBAN_UPDATE_STATEMENTS"))


@pytest.mark.parametrize("schema", ["public", "jobs"])
@pytest.mark.parametrize("name", ALL)
def test_a_statement_is_sent_as_written_down(name: str, schema: str) -> None:
    text, parameters, _ = compiled(ALL[name], schema)
    shown = f"-- {', '.join(parameters)}\n{text}\n".replace(" \n", "\n")
    path = EXPECTED / schema / f"{name}.sql"
    if UPDATING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown)
    assert shown == path.read_text(), "see the top of this file for how to accept a change"


def test_nothing_is_written_down_that_is_not_sent() -> None:
    for schema in ("public", "jobs"):
        assert {path.stem for path in (EXPECTED / schema).glob("*.sql")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_table_is_looked_for_in_the_schema(name: str) -> None:
    text, _, _ = compiled(ALL[name], "jobs")
    assert "public" not in text
    for table in ("oban_jobs", "oban_producers", "oban_leaders"):
        named = text.count(f"FROM {table}") + text.count(f"UPDATE {table}") + text.count(f"INTO {table}")
        assert named == 0, sqlalchemy.__version__
