"""What the directives refuse, and what autogenerate does not see."""

from __future__ import annotations

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations

from oban_sa.errors import InvalidOption
from oban_sa.migrations import LATEST, include_name, include_object
from tests.migrations.project import connecting


@pytest.mark.parametrize("number", [0, -1, LATEST + 1])
def test_a_version_this_release_does_not_have_is_refused(database_url: str, number: int) -> None:
    with connecting(database_url) as connection:
        operations = Operations(MigrationContext.configure(connection))
        with pytest.raises(InvalidOption, match=f"version must be between 1 and {LATEST}"):
            operations.upgrade_oban(version=number)  # type: ignore[attr-defined]


def test_autogenerate_looks_away_from_our_tables_and_from_nothing_else() -> None:
    assert not include_name("oban_jobs", "table", {"schema_name": None})
    assert not include_name("oban_sa_crons", "table", {"schema_name": "jobs"})
    assert include_name("users", "table", {"schema_name": None})
    assert include_name("oban_jobs", "column", {})
    assert include_name(None, "schema", {})
    assert not include_object(object(), "oban_jobs", "table", False, None)
    assert include_object(object(), "users", "table", False, None)
