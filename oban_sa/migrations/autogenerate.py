"""What keeps `alembic check` and `--autogenerate` quiet about tables that are not the user's to change."""

from __future__ import annotations

from typing import Any, Final

from alembic.autogenerate import comparators
from alembic.operations.ops import CreateForeignKeyOp, DropConstraintOp, ModifyTableOps

TABLES: Final = frozenset(
    {
        "oban_alembic_version",
        "oban_sa_crons",
        "oban_jobs",
        "oban_leaders",
        "oban_peers",
        "oban_producers",
        "oban_sa_queues",
    }
)
"""The tables that our migrations look after, in whichever schema."""


def include_name(name: str | None, type_: str, parent_names: Any = None) -> bool:
    """Say whether Alembic's autogenerate may look at something in the database; not at our tables.

    Give it to `context.configure(include_name=...)`, or call it from a function of your own.
    """
    return not (type_ == "table" and name in TABLES)


def include_object(obj: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Say the same of models, for those whose `target_metadata` lists ours beside their own."""
    return not (type_ == "table" and name in TABLES)


def _last(function: Any) -> Any:
    try:
        from alembic.util import DispatchPriority
    except ImportError:  # before Alembic 1.18 functions run in the order they were registered
        return comparators.dispatch_for("table")(function)
    return comparators.dispatch_for("table", priority=DispatchPriority.LAST)(function)


@_last
def keep_foreign_keys_to_our_tables(autogen_context: Any, modify_table_ops: ModifyTableOps, *_: Any) -> Any:
    """Drop pairs that would remove a foreign key to one of our tables and add the same again.

    Our models say `public` for whichever schema is in use, and a database says nothing at all for the one on its
    search path; compared as text these differ for ever.
    """
    added = [op for op in modify_table_ops.ops if _points_to_us(op)]
    for removal in [op for op in modify_table_ops.ops if isinstance(op, DropConstraintOp)]:
        before = _before(removal)
        for addition in added:
            if before is not None and _same(before, addition):
                modify_table_ops.ops.remove(removal)
                modify_table_ops.ops.remove(addition)
                added.remove(addition)
                break
    return _continue()


def _continue() -> Any:
    try:
        from alembic.util import PriorityDispatchResult
    except ImportError:
        return None
    return PriorityDispatchResult.CONTINUE


def _points_to_us(op: Any) -> bool:
    return isinstance(op, CreateForeignKeyOp) and op.referent_table in TABLES


def _before(removal: DropConstraintOp) -> CreateForeignKeyOp | None:
    try:
        op = removal.reverse()
    except ValueError:  # it was not made from a constraint
        return None
    return op if isinstance(op, CreateForeignKeyOp) and op.referent_table in TABLES else None


def _same(one: CreateForeignKeyOp, other: Any) -> bool:
    return (one.source_table, one.referent_table, list(one.local_cols), list(one.remote_cols), _options(one)) == (
        other.source_table,
        other.referent_table,
        list(other.local_cols),
        list(other.remote_cols),
        _options(other),
    )


def _options(op: CreateForeignKeyOp) -> tuple[Any, ...]:
    def action(key: str) -> str | None:
        value = str(op.kw.get(key) or "no action").lower()
        return None if value == "no action" else value

    return action("ondelete"), action("onupdate"), bool(op.kw.get("deferrable")), op.kw.get("initially") or None
