"""Filters for Alembic's autogenerate, so that `alembic check` and `--autogenerate` ignore our tables."""

from __future__ import annotations

from typing import Any, Final, TypeGuard

from alembic.autogenerate import comparators
from alembic.operations.ops import CreateForeignKeyOp, DropConstraintOp, ModifyTableOps

TABLES: Final = frozenset(
    {
        "oban_alembic_version",
        "oban_sa_cron_pauses",
        "oban_sa_crons",
        "oban_jobs",
        "oban_leaders",
        "oban_peers",
        "oban_producers",
        "oban_sa_edges",
        "oban_sa_endings",
        "oban_sa_flows",
        "oban_sa_gates",
        "oban_sa_journal",
        "oban_sa_leases",
        "oban_sa_members",
        "oban_sa_metrics",
        "oban_sa_queues",
        "oban_sa_rates",
        "oban_sa_signals",
        "oban_sa_uniques",
    }
)
"""The tables that our migrations make, in any schema."""


def include_name(name: str | None, type_: str, parent_names: object = None) -> bool:
    """Return whether Alembic's autogenerate is to compare something in the database: not our tables.

    Give it to `context.configure(include_name=...)`, or call it from a function of your own.
    """
    return not (type_ == "table" and name in TABLES)


def include_object(obj: object, name: str | None, type_: str, reflected: bool, compare_to: object) -> bool:
    """Return the same of models, where `target_metadata` has ours beside your own."""
    return not (type_ == "table" and name in TABLES)


def _last(function: Any) -> Any:
    try:
        from alembic.util import DispatchPriority
    except ImportError:  # before Alembic 1.18 functions run in the order they were registered
        return comparators.dispatch_for("table")(function)
    return comparators.dispatch_for("table", priority=DispatchPriority.LAST)(function)


@_last
def keep_foreign_keys_to_our_tables(autogen_context: object, modify_table_ops: ModifyTableOps, *_: object) -> object:
    """Drop pairs of operations that remove a foreign key to one of our tables and add the same again.

    Our models say `public` for any schema in use, and PostgreSQL reports no schema for one on its search path; Alembic
    compares these as text and finds a difference in each run.
    """
    added = [op for op in modify_table_ops.ops if _points_to_us(op)]
    for removal in [op for op in modify_table_ops.ops if isinstance(op, DropConstraintOp)]:
        before = _before(removal)
        for addition in added:
            if before is not None and _facts(before) == _facts(addition):
                modify_table_ops.ops.remove(removal)
                modify_table_ops.ops.remove(addition)
                added.remove(addition)
                break
    return _continue()


def _continue() -> object:
    try:
        from alembic.util import PriorityDispatchResult
    except ImportError:
        return None
    return PriorityDispatchResult.CONTINUE


def _points_to_us(op: object) -> TypeGuard[CreateForeignKeyOp]:
    return isinstance(op, CreateForeignKeyOp) and op.referent_table in TABLES


def _before(removal: DropConstraintOp) -> CreateForeignKeyOp | None:
    try:
        op = removal.reverse()
    except ValueError:  # it was not made from a constraint
        return None
    return op if _points_to_us(op) else None


def _facts(op: CreateForeignKeyOp) -> tuple[object, ...]:
    def action(key: str) -> str | None:
        value = str(op.kw.get(key) or "no action").lower()
        return None if value == "no action" else value

    return (
        *(op.source_table, op.referent_table, list(op.local_cols), list(op.remote_cols)),
        *(action("ondelete"), action("onupdate"), bool(op.kw.get("deferrable")), op.kw.get("initially") or None),
    )
