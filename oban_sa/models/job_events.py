"""What happens to a `Job` on its way through SQLAlchemy: assignment, INSERT, expiry, merge, and `create_all`.

A job that is made, loaded or fetched sets its attributes past the instrumentation, so that none of this costs it
anything.
"""

from collections.abc import Callable, Collection, MutableMapping
from typing import Final, cast

from sqlalchemy import Connection, event
from sqlalchemy.orm import ColumnProperty, InstanceState, Mapper
from sqlalchemy.orm.interfaces import EXT_CONTINUE

from oban_sa.models import validation
from oban_sa.models.base import store
from oban_sa.models.job import Job
from oban_sa.models.types import ErrorEntries

_ENDED: Final = ("attempted_at", "completed_at", "discarded_at", "cancelled_at")
"""Moments that a new job doesn't have."""


def listen() -> None:
    """Listen to every job from now on; called once the mappers are configured."""
    store(
        Job,
        autovacuum_vacuum_scale_factor=0.02,
        autovacuum_vacuum_threshold=50,
        autovacuum_analyze_scale_factor=0.02,
        autovacuum_analyze_threshold=100,
        autovacuum_vacuum_cost_limit=2000,
        autovacuum_vacuum_cost_delay=1,
        autovacuum_vacuum_insert_scale_factor=0.02,
        autovacuum_vacuum_insert_threshold=1000,
        fillfactor=85,
    )
    # raw: the object itself may be gone when its state expires.
    event.listen(Job, "expire", _keep_id, propagate=True, raw=True)
    event.listen(Job.errors, "init_scalar", _start_without_errors, retval=True)
    # Raw, and with a value returned: SQLAlchemy then calls them without a wrapper of its own for each job.
    event.listen(Job, "before_insert", _leave_out_unset, raw=True, retval=True)
    event.listen(Job, "after_insert", _fill_in_defaults, raw=True, retval=True)
    _merge_unique()
    for column, rule in validation.RULES.items():
        event.listen(getattr(Job, column), "set", _checked(rule), retval=True, propagate=True)


def _checked(rule: Callable[[object], object]) -> Callable[..., object]:
    def checked(job: Job, value: object, before: object, initiator: object) -> object:
        return rule(value)

    return checked


def _merge_unique() -> None:
    """Have `session.merge` copy what makes a job unique, which is no column."""
    attribute = cast("ColumnProperty[object]", Job.__mapper__.get_property("args", _configure_mappers=False))
    given = type(attribute)

    def merge(prop: ColumnProperty[object], *parts: object) -> None:
        given.merge(prop, *parts)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        source, target = cast("tuple[dict[str, object], dict[str, object]]", (parts[2], parts[4]))
        if "_unique" in source:
            target["_unique"] = source["_unique"]

    # There is no event for it: a merge asks each attribute of the mapper to copy itself.
    attribute.__class__ = type("Args", (given,), {"__slots__": (), "inherit_cache": True, "merge": merge})


def _keep_id(state: InstanceState[Job], attributes: Collection[str] | None) -> None:
    # A key never changes. If a commit expired it, `job.id` would be a query in a sync session, and an error in an async
    # one or once the session is closed, just where a program wants to say which job it was.
    if state.identity is not None and (attributes is None or "id" in attributes):
        state.dict["id"] = state.identity[0]
        state.expired_attributes.discard("id")


def _start_without_errors(job: Job, value: object, loaded: MutableMapping[str, object]) -> list[object]:
    errors: list[object] = []
    loaded["errors"] = errors
    return errors


def _leave_out_unset(mapper: Mapper[Job], connection: Connection, state: InstanceState[Job]) -> object:
    # The column's default is right in the tables of both families. Errors are left out where there are none, because
    # rows with errors can't be batched.
    loaded = state.dict
    entries = loaded.get("errors")
    if entries:
        loaded["errors"] = ErrorEntries(entries)
        if not connection.dialect.insert_executemany_returning:
            loaded["_entries"] = entries
    else:
        loaded.pop("errors", None)
    for moment in _ENDED:
        if loaded.get(moment, moment) is None:
            del loaded[moment]
    if loaded.get("scheduled_at") is None and loaded.get("inserted_at") is not None:
        loaded["scheduled_at"] = loaded["inserted_at"]
    return EXT_CONTINUE


def _fill_in_defaults(mapper: Mapper[Job], connection: Connection, state: InstanceState[Job]) -> object:
    # Without a schedule the database put the same now into both columns.
    loaded = state.dict
    if loaded.get("scheduled_at") is None:
        loaded["scheduled_at"] = loaded["inserted_at"]
    if "errors" not in loaded:  # use_insertmanyvalues=False: no INSERT returns what the database has set
        loaded["errors"] = loaded.pop("_entries", [])
    for moment in _ENDED:
        loaded.setdefault(moment, None)
    return EXT_CONTINUE
