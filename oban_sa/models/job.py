"""`Job`: a row of `oban_jobs`."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

import orjson
from sqlalchemy import DDL, BigInteger, CheckConstraint, Identity, Index, Integer, Text, event, inspect, text
from sqlalchemy.orm import InstanceState, Mapped, Mapper, mapped_column
from sqlalchemy.orm.interfaces import EXT_CONTINUE

from oban_sa import hooks, jsontext, recorded, values
from oban_sa.models import rules
from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.pattern import Pattern
from oban_sa.models.types import (
    ErrorEntries,
    Errors,
    JSONObject,
    Labels,
    ScheduledAt,
    State,
    UTCDateTime,
    args_from_database,
    errors_from_database,
    labels_from_database,
    object_from_database,
)
from oban_sa.periods import Period
from oban_sa.states import JobState

# A mapper sends NULL for what has no value, in a parameter of its own for each job; not so where None is a value too.
_EVENTUALLY: Final = UTCDateTime().evaluates_none()


class Job(Base):
    """A unit of work: which worker, with what arguments, when, and what became of it.

    Args and meta are JSON objects; every moment is an aware UTC datetime. Making a job writes nothing.
    """

    __tablename__ = "oban_jobs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    state: Mapped[JobState] = mapped_column(State, server_default=text("'available'"))
    queue: Mapped[str] = mapped_column(Text, server_default=text("'default'"))
    worker: Mapped[str] = mapped_column(Text)
    args: Mapped[dict[str, Any]] = mapped_column(JSONObject("args"), server_default=text("'{}'::jsonb"))
    errors: Mapped[list[dict[str, Any]]] = mapped_column(Errors, server_default=text("'{}'::jsonb[]"))
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(Integer, server_default=text("20"))
    inserted_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=UTC_NOW)
    scheduled_at: Mapped[datetime] = mapped_column(ScheduledAt, server_default=UTC_NOW)
    attempted_at: Mapped[datetime | None] = mapped_column(_EVENTUALLY)
    completed_at: Mapped[datetime | None] = mapped_column(_EVENTUALLY)
    attempted_by: Mapped[list[str]] = mapped_column(Labels, server_default=text("'{}'::text[]"))
    discarded_at: Mapped[datetime | None] = mapped_column(_EVENTUALLY)
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    tags: Mapped[list[str]] = mapped_column(Labels, server_default=text("'{}'::text[]"))
    meta: Mapped[dict[str, Any]] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
    cancelled_at: Mapped[datetime | None] = mapped_column(_EVENTUALLY)

    __table_args__ = (
        CheckConstraint("attempt >= 0 AND attempt <= max_attempts", name="attempt_range"),
        CheckConstraint("priority >= 0", name="non_negative_priority"),
        CheckConstraint("max_attempts > 0", name="positive_max_attempts"),
        CheckConstraint("char_length(queue) > 0 AND char_length(queue) < 128", name="queue_length"),
        CheckConstraint("char_length(worker) > 0 AND char_length(worker) < 128", name="worker_length"),
        Index(
            "oban_jobs_state_queue_priority_scheduled_at_id_index",
            *("state", "queue", "priority", "scheduled_at", "id"),
            postgresql_with={"fillfactor": 90},
        ),
        Index(
            "oban_jobs_staging_index",
            *("scheduled_at", "id"),
            postgresql_include=["queue"],
            postgresql_where=text("state IN ('scheduled', 'retryable')"),
        ),
        Index("oban_jobs_completed_at_index", "completed_at", postgresql_where=text("state = 'completed'")),
        Index("oban_jobs_cancelled_at_index", "cancelled_at", postgresql_where=text("state = 'cancelled'")),
        Index("oban_jobs_discarded_at_index", "discarded_at", postgresql_where=text("state = 'discarded'")),
        {"comment": "14"},
    )

    # Plain attributes, not columns: present on loaded rows as well, which never pass through the constructor.
    _cancel_requested = False
    _tell_of_cancel = cast("Any", None)
    _extra = None

    def __init__(
        self,
        worker: str,
        *,
        id: int | None = None,  # noqa: A002 - the column's name
        state: JobState = JobState.AVAILABLE,
        queue: str = "default",
        attempt: int = 0,
        max_attempts: int = 20,
        priority: int = 0,
        args: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
        errors: list[dict[str, Any]] | None = None,
        tags: Iterable[str] | None = None,
        attempted_by: Iterable[str] | None = None,
        inserted_at: datetime | None = None,
        attempted_at: datetime | None = None,
        cancelled_at: datetime | None = None,
        completed_at: datetime | None = None,
        discarded_at: datetime | None = None,
        scheduled_at: datetime | None = None,
        schedule_in: Period | None = None,
        scheduled_in: Period | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Make a job for `worker`, the name it is registered under; raise InvalidJob for values no runner could use.

        `schedule_in` takes seconds, a timedelta or a text such as "5 minutes", counted by the database's clock from
        when the job is written; until then `scheduled_at` is this machine's estimate. `scheduled_in` is a synonym. A
        job with a schedule is `scheduled` unless another state is given. Moments left out are set by the database when
        the job is written. `extra` lives as long as this object and is never stored.
        """
        # Past the instrumentation, whose events cost more than all the rest: what has no row yet has no history.
        loaded: dict[str, Any] = self.__dict__  # pyright: ignore[reportAssignmentType]
        moment = rules.schedule(scheduled_at, schedule_in, scheduled_in)
        state = rules.state(state)
        if moment is not None and state is JobState.AVAILABLE:
            state = JobState.SCHEDULED
        loaded["worker"] = rules.name(worker, "worker")
        loaded["state"] = state
        loaded["queue"] = rules.name(queue, "queue")
        loaded["max_attempts"] = limit = rules.max_attempts(max_attempts)
        loaded["attempt"] = rules.attempt(attempt, limit)
        loaded["priority"] = rules.priority(priority)
        loaded["args"] = {} if args is None else rules.json_object(args, "args")
        loaded["meta"] = {} if meta is None else rules.json_object(meta, "meta")
        loaded["tags"] = [] if tags is None else rules.tags(tags)
        loaded["attempted_by"] = [] if attempted_by is None else rules.strings(attempted_by, "attempted_by")
        loaded["scheduled_at"] = moment  # None until the database sets it
        loaded["inserted_at"] = None if inserted_at is None else rules.moment(inserted_at, "inserted_at")
        loaded["attempted_at"] = None if attempted_at is None else rules.moment(attempted_at, "attempted_at")
        loaded["cancelled_at"] = None if cancelled_at is None else rules.moment(cancelled_at, "cancelled_at")
        loaded["completed_at"] = None if completed_at is None else rules.moment(completed_at, "completed_at")
        loaded["discarded_at"] = None if discarded_at is None else rules.moment(discarded_at, "discarded_at")
        if id is not None:
            loaded["id"] = rules.identity(id)
        if errors is not None and (entries := rules.entries(errors)):
            loaded["errors"] = entries
        if extra is not None:
            self._extra = extra
        hooks.made(self)

    @classmethod
    def from_pattern(cls, pattern: Pattern, args: dict[str, Any]) -> "Job":
        """Make a job from these args and what was checked before, and call hooks: what the constructor does, faster."""
        if len(_manager.dispatch.init) > _OWN_LISTENERS:  # SQLAlchemy's "init", which only the constructor tells of
            return cls(**{**pattern.given, "meta": values.to_json(pattern.meta, where="meta")}, args=args)
        job: Job = _new_instance()
        loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
        loaded.update(pattern.columns)
        loaded["args"] = rules.json_object(args, "args")
        loaded["meta"] = values.to_json(pattern.meta, where="meta") if pattern.meta else {}
        loaded["tags"] = pattern.tags.copy()
        loaded["attempted_by"] = []
        hooks.made(job)
        return job

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Make a job from the columns of its row, without validation and without calling hooks.

        It is what a session would have loaded and then let go: detached, every column present, nothing expired. What
        the row doesn't have is as in a new job.
        """
        try:
            job: Self = _new_instance()
            loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
            state = loaded["_sa_instance_state"]
            identity = row["id"]
            value: Any
            loaded["id"] = identity
            loaded["state"] = _STATES[row["state"]]
            loaded["queue"] = row["queue"]
            loaded["worker"] = row["worker"]
            loaded["args"] = args_from_database(row["args"])
            loaded["meta"] = object_from_database(row["meta"])
            value = row["errors"]
            loaded["errors"] = errors_from_database(value) if value else []
            loaded["attempt"] = row["attempt"]
            loaded["max_attempts"] = row["max_attempts"]
            loaded["priority"] = row["priority"]
            loaded["tags"] = labels_from_database(row["tags"])
            loaded["attempted_by"] = labels_from_database(row["attempted_by"])
            for column in _MOMENTS:
                value = row[column]
                loaded[column] = value if value is None or value.tzinfo is UTC else _as_utc(value)
            if identity is not None:
                state.key = (Job, (identity,), None)
            return job
        except KeyError:
            if not set(_NEW).difference(row.keys()):
                raise
        return cls.from_row({**_NEW, **row})

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> "Job":
        """Make the job that `from_row` would make of these columns: all of them, as the attributes will hold them."""
        job: Job = _new_instance()
        loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
        loaded.update(columns)
        loaded["_sa_instance_state"].key = (Job, (columns["id"],), None)
        return job

    @property
    def extra(self) -> dict[str, Any]:
        """Anything the program wants to keep with this object; never stored."""
        if self._extra is None:
            self._extra = {}
        return self._extra

    @extra.setter
    def extra(self, extra: dict[str, Any]) -> None:
        self._extra = extra

    def cancelled(self) -> bool:
        """Return True once this running job was asked to stop; may be called from any thread."""
        return self._cancel_requested

    def request_cancel(self) -> None:
        """Ask the code that runs this job to stop: `cancelled()` is True from now on. May be called from any thread."""
        self._cancel_requested = True
        tell = self._tell_of_cancel
        if tell is not None:
            tell()

    def when_asked_to_stop(self, tell: Callable[[], object] | None) -> None:
        """Call `tell` once this job is asked to stop, in whichever thread asks; at once where it was. None: nobody."""
        self._tell_of_cancel = tell
        if tell is not None and self._cancel_requested:
            tell()

    def recorded(self) -> Any:
        """Return the value that the worker answered with `Record`, or None where it recorded nothing."""
        text = self.meta.get("return") if self.meta.get("recorded") else None
        return recorded.decode(text) if isinstance(text, str) else None

    def update(self, changes: Mapping[str, Any]) -> Self:
        """Change what a job may still change, in place, and return the job.

        Takes args, max_attempts, meta, priority, queue, scheduled_at, schedule_in, tags and worker. Raises InvalidJob
        as the constructor does, also for what the job held already, and then nothing was changed.
        """
        checked = rules.changes(changes)
        checked = {**rules.whole({**vars(self), **checked}), **checked}
        rules.attempt(self.attempt, checked.get("max_attempts", self.max_attempts))
        if "scheduled_at" in checked and self.state == JobState.AVAILABLE:
            checked["state"] = JobState.SCHEDULED
        for column, value in checked.items():
            setattr(self, column, value)
        return self

    def __str__(self) -> str:
        id_, worker, queue, state, _ = self._shown()
        args = _as_json(self.__dict__["args"]) if "args" in self.__dict__ else "?"
        return f"Job(id={id_}, worker={worker.rpartition('.')[2]}, args={args}, queue={queue}, state={state})"

    def __repr__(self) -> str:
        id_, worker, queue, state, attempt = self._shown()
        return f"<Job id={id_} worker={worker} queue={queue} state={state} attempt={attempt}>"

    def _shown(self) -> tuple[str, ...]:
        # Showing a job must neither query nor fail, whatever became of its session: what was expired shows as "?".
        identity = inspect(self).identity
        loaded = {"id": identity[0] if identity else None, **self.__dict__}
        return tuple(str(loaded.get(column, "?")) for column in ("id", "worker", "queue", "state", "attempt"))


_manager: Final[Any] = Job.__mapper__.class_manager
_new_instance: Final[Any] = _manager.new_instance
_OWN_LISTENERS: Final = len(_manager.dispatch.init)  # SQLAlchemy's own, who sees to it that mappers are configured
_NEW: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("id", "inserted_at", "scheduled_at", "attempted_at", "cancelled_at", "completed_at")),
    **dict.fromkeys(("discarded_at", "args", "meta", "errors", "tags", "attempted_by")),
    "state": "available",
    "queue": "default",
    "attempt": 0,
    "max_attempts": 20,
    "priority": 0,
}
"""What a row is read as where it lacks a column; none lacks its worker."""
_STATES: Final = {state.value: state for state in JobState}
_LATER: Final = ("attempted_at", "completed_at", "discarded_at", "cancelled_at")
_MOMENTS: Final = ("inserted_at", "scheduled_at", "attempted_at", "cancelled_at", "completed_at", "discarded_at")


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _as_json(args: Any) -> str:
    try:
        return orjson.dumps(args, default=repr, option=orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except TypeError:  # keys that are not strings, numbers beyond 64 bits, cycles: still worth showing
        try:
            return repr(args)
        except Exception:  # nested too deep, or of a class whose repr() fails
            return jsontext.write(args, default=repr)


# The migrations make the table so; this is for those who call `create_all`, in tests for instance.
event.listen(
    Job.__table__,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "ALTER TABLE %(fullname)s SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 50, "
        "autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 100, "
        "autovacuum_vacuum_cost_limit = 2000, autovacuum_vacuum_cost_delay = 1, "
        "autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_insert_threshold = 1000, fillfactor = 85)"
    ),
)


@event.listens_for(Job, "expire", propagate=True, raw=True)  # raw: the object itself may be gone by then
def _keep_its_id(state: InstanceState[Job], attributes: Any) -> None:
    # A key never changes. Expired by a commit, `job.id` would be a query in a sync session and an error in an async one
    # or once the session is closed, just where a program wants to say which job it was.
    if state.identity is not None and (attributes is None or "id" in attributes):
        state.dict["id"] = state.identity[0]
        state.expired_attributes.discard("id")


@event.listens_for(Job.errors, "init_scalar", retval=True)
def _start_without_errors(job: Job, value: Any, loaded: dict[str, Any]) -> list[Any]:
    errors: list[Any] = []
    loaded["errors"] = errors
    return errors


# Raw, and with a value returned: SQLAlchemy then calls it without a function of its own in between, for each job.
@event.listens_for(Job, "before_insert", raw=True, retval=True)
def _write_only_what_there_is(mapper: Mapper[Job], connection: Any, state: InstanceState[Job]) -> Any:
    # The column's default is right in the table of either family, and what can't be batched stays rare.
    loaded: dict[str, Any] = state.dict
    entries = loaded.get("errors")
    if entries:
        loaded["errors"] = ErrorEntries(entries)
        if not connection.dialect.insert_executemany_returning:
            loaded["_entries"] = entries
    else:
        loaded.pop("errors", None)
    for moment in _LATER:
        if loaded.get(moment, moment) is None:
            del loaded[moment]
    if loaded.get("scheduled_at") is None and loaded.get("inserted_at") is not None:
        loaded["scheduled_at"] = loaded["inserted_at"]
    return EXT_CONTINUE


@event.listens_for(Job, "after_insert", raw=True, retval=True)
def _know_what_the_database_made_of_it(mapper: Mapper[Job], connection: Any, state: InstanceState[Job]) -> Any:
    # Without a schedule the database put the same now into both columns.
    loaded: dict[str, Any] = state.dict
    if loaded.get("scheduled_at") is None:
        loaded["scheduled_at"] = loaded["inserted_at"]
    if "errors" not in loaded:  # use_insertmanyvalues=False: no INSERT tells what the database has set
        loaded["errors"] = loaded.pop("_entries", [])
    for moment in _LATER:
        loaded.setdefault(moment, None)
    return EXT_CONTINUE
