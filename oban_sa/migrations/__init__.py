"""The job tables as Alembic migrations; importing this registers `op.upgrade_oban` and `op.downgrade_oban`.

Either add `oban_sa:migrations/versions` to `version_locations` and run `alembic upgrade heads`, or write one line
into a migration of your own: `op.upgrade_oban(version=3)`. Both use the same files and may be used on one database.
Without an Alembic project, `migrate(connection)` brings the tables up to date.
"""

from __future__ import annotations

from oban_sa.catalog.inspection import instructions, missing
from oban_sa.catalog.version import LATEST, installed
from oban_sa.migrations.autogenerate import TABLES, include_name, include_object
from oban_sa.migrations.branch import own_revisions
from oban_sa.migrations.directives import DowngradeOban, UpgradeOban
from oban_sa.migrations.standalone import migrate, write_sql

__all__ = [
    "LATEST",
    "TABLES",
    "DowngradeOban",
    "UpgradeOban",
    "include_name",
    "include_object",
    "installed",
    "instructions",
    "migrate",
    "missing",
    "own_revisions",
    "write_sql",
]
