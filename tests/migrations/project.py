"""An application's own Alembic project, in a folder, as `alembic init` would leave it and its author would fill it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import make_url

from oban_sa import migrations
from tests.support import environment, sync_url

OURS = (
    *("oban_jobs", "oban_leaders", "oban_peers", "oban_producers", "oban_sa_crons", "oban_sa_queues"),
    *("oban_sa_uniques", "oban_sa_rates", "oban_sa_leases"),
    *("oban_sa_flows", "oban_sa_members", "oban_sa_edges", "oban_sa_gates", "oban_sa_endings"),
    *("oban_sa_journal", "oban_sa_signals"),
    *("oban_sa_metrics", "oban_sa_cron_pauses"),
)
"""The tables that the migrations make."""

MODELS = """
from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from oban_sa.models import Job, schema_map


class Base(DeclarativeBase):
    pass


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id, ondelete="SET NULL"))
    job: Mapped[Job | None] = relationship(Job)
"""

CONFIGURE = """
from alembic import context

from oban_sa.migrations import include_name

URL = context.config.get_main_option("sqlalchemy.url")
SCHEMA = context.config.get_main_option("schema_of_jobs")


def migrate(connection=None):
    if connection is not None:
        connection = connection.execution_options(schema_translate_map=schema_map(SCHEMA))
    context.configure(
        connection=connection,
        url=URL if connection is None else None,
        literal_binds=connection is None,
        target_metadata=Base.metadata,
        include_name=include_name,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    migrate()
else:
    go()
"""

SYNC = """
from sqlalchemy import create_engine, pool


def go():
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        migrate(connection)
"""

ASYNC = """
import asyncio

from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine


def go():
    async def run():
        async with create_async_engine(URL, poolclass=pool.NullPool).connect() as connection:
            await connection.run_sync(migrate)

    asyncio.run(run())
"""

SCRIPT = '''
"""${message}"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


SNAPSHOT = """
    SELECT concat_ws(' ', 'column', table_name, column_name, udt_name, is_nullable, column_default, identity_generation)
    FROM information_schema.columns WHERE table_schema = '{schema}'
    UNION ALL
    SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = '{schema}'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', 'relation', relname, relkind, relpersistence, reloptions::text,
        obj_description(oid, 'pg_class'))
    FROM pg_class WHERE relnamespace = '{schema}'::regnamespace
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = '{schema}'
    UNION ALL
    SELECT concat_ws(' ', 'label', enumlabel, enumsortorder)
    FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid AND typnamespace = '{schema}'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', 'function', proname, pg_get_function_arguments(oid), pg_get_function_result(oid),
        regexp_replace(prosrc, '\\s+', ' ', 'g'), obj_description(oid, 'pg_proc'))
    FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace
"""


class Project:
    """An Alembic project on a database; `branch` lists our versions, without it a migration of its own calls us."""

    def __init__(self, folder: Path, url: str, *, branch: bool, driver: str, schema: str = "public") -> None:
        self.folder = folder
        self.url = sync_url(url)
        self.schema = schema
        versions = folder / "scripts" / "versions"
        versions.mkdir(parents=True)
        self.versions = versions
        locations = [str(versions), *(["oban_sa:migrations/versions"] if branch else [])]
        named = f"oban_schema = {schema}" if branch and schema != "public" else ""
        (folder / "alembic.ini").write_text(
            "[alembic]\n"
            f"script_location = {folder / 'scripts'}\n"
            "path_separator = space\n"
            "version_path_separator = space\n"
            f"version_locations = {' '.join(locations)}\n"
            f"sqlalchemy.url = {sync_url(url, driver)}\n"
            f"schema_of_jobs = {schema}\n{named}\n"
        )
        template = ASYNC if make_url(sync_url(url, driver)).get_dialect().is_async else SYNC
        (folder / "scripts" / "env.py").write_text(MODELS + template + CONFIGURE)
        (folder / "scripts" / "script.py.mako").write_text(SCRIPT)

    def config(self, output: io.StringIO | None = None) -> Config:
        return Config(self.folder / "alembic.ini", output_buffer=output, stdout=io.StringIO())

    def write(self, name: str, body: str) -> None:
        """Write a revision by hand."""
        (self.versions / f"{name}.py").write_text(dedent(body))

    def upgrade(self, to: str = "heads") -> None:
        command.upgrade(self.config(), to)

    def downgrade(self, to: str = "base") -> None:
        command.downgrade(self.config(), to)

    def check(self) -> None:
        """Raise AutogenerateDiffsDetected where models and database differ."""
        command.check(self.config())

    def autogenerate(self, *, depends_on: str | None = None, head: str = "head") -> Path:
        """Let Alembic write the revision that brings the database to what the models say."""
        made = command.revision(
            self.config(),
            "Add reports",
            autogenerate=True,
            depends_on=depends_on,
            head=head,
            version_path=self.versions,
        )
        assert made is not None
        assert not isinstance(made, list)
        return Path(made.path)

    def sql(self, to: str, *, down: bool = False) -> str:
        output = io.StringIO()
        (command.downgrade if down else command.upgrade)(self.config(output), to, sql=True)
        return output.getvalue()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command `alembic` as a person would."""
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.folder,
            env=environment({"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "")}),
            capture_output=True,
            text=True,
            check=False,
        )

    def tables(self) -> set[str]:
        """Return the tables of the application and of its jobs, without Alembic's own."""
        return {table for table in tables(self.url) if not table.endswith(".alembic_version")}


def tables(url: str) -> set[str]:
    """Return every table of a database as `schema.table`."""
    statement = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    return set(query(url, statement))


def snapshot(url: str, schema: str = "public") -> list[str]:
    """Return what a dump would show of a schema: columns, constraints, storage, comments, indexes, enum labels and
    functions."""
    lines = query(url, SNAPSHOT.replace("{schema}", schema))
    return sorted(line.replace(f"{schema}.", "").replace(f'"{schema}".', "") for line in lines)


@contextmanager
def connecting(url: str, **options: Any) -> Iterator[Connection]:
    """A connection that is closed in any case."""
    with create_engine(sync_url(url), poolclass=NullPool, **options).connect() as connection:
        yield connection


def lacking(url: str) -> list[str]:
    """Return what the tables lack, in words."""
    with connecting(url) as connection:
        return migrations.missing(connection)


def up(url: str) -> None:
    """Make the tables, or mend them."""
    with connecting(url) as connection:
        migrations.migrate(connection)


def down(url: str) -> None:
    """Take away what was made."""
    with connecting(url) as connection:
        migrations.migrate(connection, down=True)


def query(url: str, statement: str) -> list[str]:
    """Return the first column of what a statement answers, and commit."""
    with connecting(url) as connection, connection.begin():
        result = connection.execute(text(statement.replace(":", "\\:")))
        return list(result.scalars()) if result.returns_rows else []


def run_script(url: str, script: str) -> None:
    """Run statements as psql does: one after another, outside of any transaction that they don't begin."""
    with connecting(url, isolation_level="AUTOCOMMIT") as connection:
        for statement in statements(script):
            connection.exec_driver_sql(statement.replace("%", "%%"))


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end a line, but for those inside of a DO block."""
    found: list[str] = []
    lines: list[str] = []
    inside = False
    for line in script.splitlines():
        if line.startswith("--"):
            continue
        lines.append(line)
        if line.count("$oban$") == 1:
            inside = not inside
        if not inside and line.rstrip().endswith(";"):
            found.append("\n".join(lines))
            lines = []
    return [statement for statement in found if statement.strip()]
