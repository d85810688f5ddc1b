"""`op.upgrade_oban` and `op.downgrade_oban`: our tables in a user's own Alembic history."""

from __future__ import annotations

from typing import Any

from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext

from oban_sa.catalog.version import LATEST
from oban_sa.migrations import steps
from oban_sa.migrations.branch import option


@Operations.register_operation("upgrade_oban")
class UpgradeOban(MigrateOperation):
    """Bring the tables in `schema` up to `version`."""

    def __init__(
        self, version: int | None, schema: str | None, *, oban_web: bool | None = None, flow_trigger: bool | None = None
    ) -> None:
        self.version = version
        self.schema = schema
        self.extras = {"oban_web": oban_web, "flow_trigger": flow_trigger}

    @classmethod
    def upgrade_oban(
        cls,
        operations: Operations,
        *,
        version: int | None = None,
        schema: str | None = None,
        oban_web: bool | None = None,
        flow_trigger: bool | None = None,
    ) -> None:
        """Bring the job tables up to `version`, or to the newest; do nothing where they are there already.

        `schema` is made where it does not exist. By default it comes from `-x oban_schema=...`, the option
        `oban_schema` of alembic.ini or, except with `--sql`, what the connection's schema_translate_map says for
        `public`; else it is `public`.

        `oban_web=True` makes the view `oban_workflows` and an index for Oban Web, `flow_trigger=True` a trigger that
        notes at once what nodes of Elixir and of oban-py have done of a workflow; False drops them, None leaves them.
        Raises SchemaError where something that oban_sa did not make stands in the way.
        """
        operations.invoke(cls(version, schema, oban_web=oban_web, flow_trigger=flow_trigger))

    def reverse(self) -> DowngradeOban:
        """Return the operation that undoes it."""
        return DowngradeOban((self.version or LATEST) - 1, self.schema)


@Operations.register_operation("downgrade_oban")
class DowngradeOban(MigrateOperation):
    """Bring the tables in `schema` down to `version`."""

    def __init__(self, version: int, schema: str | None) -> None:
        self.version = version
        self.schema = schema

    @classmethod
    def downgrade_oban(cls, operations: Operations, *, version: int = 0, schema: str | None = None) -> None:
        """Bring the job tables down to `version`; 0 drops what oban_sa made, jobs included, and nothing else.

        `schema` is found as by `upgrade_oban`; the schema itself stays.
        """
        operations.invoke(cls(version, schema))

    def reverse(self) -> UpgradeOban:
        """Return the operation that undoes it."""
        return UpgradeOban(self.version + 1, self.schema)


@Operations.implementation_for(UpgradeOban)
def _upgrade(operations: Operations, operation: UpgradeOban) -> None:
    schema = operation.schema or schema_in_use(operations.get_context())
    steps.upgrade(operations, version=operation.version, schema=schema, extras=operation.extras)


@Operations.implementation_for(DowngradeOban)
def _downgrade(operations: Operations, operation: DowngradeOban) -> None:
    schema = operation.schema or schema_in_use(operations.get_context())
    steps.downgrade(operations, version=operation.version, schema=schema)


def schema_in_use(context: MigrationContext) -> str:
    """Return the schema that a migration's environment names (see `upgrade_oban`), else `public`."""
    environment: Any = context.environment_context
    if environment is not None and environment.config is not None:
        schema = option(environment.config, "oban_schema")
        if schema:
            return schema
    translated: dict[str | None, str | None] = {}
    if context.connection is not None and not context.as_sql:
        translated = context.connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get("public") or "public"
