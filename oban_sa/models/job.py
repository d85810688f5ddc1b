"""`Job`: a row of `oban_jobs`."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

import orjson
from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Integer, Text, inspect, text
from sqlalchemy.orm import Mapped, mapped_column

from oban_sa import hooks
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict, Unique
from oban_sa.jobs.values import JSONDict
from oban_sa.models import validation
from oban_sa.models.base import UTC_NOW, Base
from oban_sa.models.template import Pattern
from oban_sa.models.types import (
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
from oban_sa.schedule.periods import Period
from oban_sa.wire import erlang, json_text

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
    args: Mapped[JSONDict] = mapped_column(JSONObject("args"), server_default=text("'{}'::jsonb"))
    errors: Mapped[list[JSONDict]] = mapped_column(Errors, server_default=text("'{}'::jsonb[]"))
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
    meta: Mapped[JSONDict] = mapped_column(JSONObject("meta"), server_default=text("'{}'::jsonb"))
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
        Index(
            "oban_jobs_partition_index",
            *("queue", "priority", text("(meta ->> 'partition')"), "scheduled_at", "id"),
            postgresql_where=text("state = 'available' AND meta ? 'partition'"),
        ),
        Index(
            "oban_jobs_running_index",
            *("queue", text("(meta ->> 'partition')")),
            postgresql_where=text("state = 'executing' AND meta ? 'partition'"),
        ),
        Index(
            "oban_jobs_sequence_index",
            *("queue", text("(meta ->> 'sequence')"), "id"),
            postgresql_where=text(
                "meta ? 'sequence' AND (state IN ('available', 'scheduled', 'executing', 'retryable', 'suspended') "
                "OR (state = 'discarded' AND meta ? 'halts'))"
            ),
        ),
        Index(
            "oban_jobs_sequence_running_index",
            *("queue", text("(meta ->> 'sequence')")),
            postgresql_where=text("state = 'executing' AND meta ? 'sequence'"),
        ),
        Index(
            "oban_jobs_halting_index",
            *("discarded_at", "id"),
            postgresql_where=text("state = 'discarded' AND meta ? 'sequence' AND meta ? 'halts'"),
        ),
        {"comment": "14"},
    )

    # No columns. On the class, because loaded rows have them too and never pass through the constructor.
    _cancel_requested = False
    _on_cancel = cast("Callable[..., object] | None", None)
    _extra = cast("JSONDict | None", None)
    _unique = cast("Unique | None", None)
    conflict = cast("Conflict | None", None)
    """Which job stood in the way of this unique one, so that it became that job; None where it was inserted."""

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
        args: JSONDict | None = None,
        meta: JSONDict | None = None,
        errors: list[JSONDict] | None = None,
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
        unique: bool | Unique | None = None,
        extra: JSONDict | None = None,
    ) -> None:
        """Make a job for `worker`, the name it is registered under; raise InvalidJob for values no runner could use.

        `schedule_in` takes seconds, a timedelta or a text such as "5 minutes", counted by the database's clock from
        when the job is written; until then `scheduled_at` is this machine's estimate. `scheduled_in` is a synonym. A
        job with a schedule is `scheduled` unless another state is given. Moments left out are set by the database when
        the job is written. `unique` is True or a `Unique(...)`; `extra` lives as long as this object and is never
        stored.
        """
        # Past the instrumentation, whose events cost more than all the rest: what has no row yet has no history.
        loaded: dict[str, Any] = self.__dict__  # pyright: ignore[reportAssignmentType]
        moment = validation.schedule(scheduled_at, schedule_in, scheduled_in)
        state = validation.state(state)
        if moment is not None and state is JobState.AVAILABLE:
            state = JobState.SCHEDULED
        loaded["worker"] = validation.name(worker, "worker")
        loaded["state"] = state
        loaded["queue"] = validation.name(queue, "queue")
        loaded["max_attempts"] = limit = validation.max_attempts(max_attempts)
        loaded["attempt"] = validation.attempt(attempt, limit)
        loaded["priority"] = validation.priority(priority)
        loaded["args"] = {} if args is None else validation.json_object(args, "args")
        loaded["meta"] = {} if meta is None else validation.json_object(meta, "meta")
        loaded["tags"] = [] if tags is None else validation.tags(tags)
        loaded["attempted_by"] = [] if attempted_by is None else validation.strings(attempted_by, "attempted_by")
        loaded["scheduled_at"] = moment  # None until the database sets it
        loaded["inserted_at"] = None if inserted_at is None else validation.moment(inserted_at, "inserted_at")
        loaded["attempted_at"] = None if attempted_at is None else validation.moment(attempted_at, "attempted_at")
        loaded["cancelled_at"] = None if cancelled_at is None else validation.moment(cancelled_at, "cancelled_at")
        loaded["completed_at"] = None if completed_at is None else validation.moment(completed_at, "completed_at")
        loaded["discarded_at"] = None if discarded_at is None else validation.moment(discarded_at, "discarded_at")
        if id is not None:
            loaded["id"] = validation.identity(id)
        if errors is not None and (entries := validation.entries(errors)):
            loaded["errors"] = entries
        if extra is not None:
            self._extra = extra
        if unique and (found := Unique.of(unique)) is not None:
            loaded["_unique"] = found
        if hooks.AFTER_NEW.hooks:
            hooks.made(self)

    @classmethod
    def from_pattern(cls, pattern: Pattern, args: JSONDict) -> "Job":
        """Make a job from these args and what was checked before, and call hooks: what the constructor does, faster."""
        if len(_manager.dispatch.init) > _OWN_LISTENERS:  # SQLAlchemy's "init", which only the constructor tells of
            return cls(**{**pattern.given, "meta": values.to_json(pattern.meta, where="meta")}, args=args)
        job: Job = _new_instance()
        loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
        loaded.update(pattern.columns)
        loaded["args"] = args if type(args) is dict else validation.json_object(args, "args")
        loaded["meta"] = values.to_json(pattern.meta, where="meta") if pattern.meta else {}
        loaded["tags"] = pattern.tags.copy()
        loaded["attempted_by"] = []
        if hooks.AFTER_NEW.hooks:
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

    @property
    def extra(self) -> JSONDict:
        """Anything the program wants to keep with this object; never stored."""
        if self._extra is None:
            self._extra = {}
        return self._extra

    @extra.setter
    def extra(self, extra: JSONDict) -> None:
        self._extra = extra

    def cancelled(self) -> bool:
        """Return True once this running job was asked to stop; may be called from any thread."""
        return self._cancel_requested

    def request_cancel(self) -> None:
        """Ask the code that runs this job to stop: `cancelled()` is True from now on. May be called from any thread."""
        self._cancel_requested = True
        if (tell := self._on_cancel) is not None:
            tell()

    def when_asked_to_stop(self, tell: Callable[[], object] | None) -> None:
        """Set the cancel callback; None removes it.

        It is called in the cancelling thread, or at once if the job is already cancelled.
        """
        self._on_cancel = tell
        if tell is not None and self._cancel_requested:
            tell()

    def recorded(self) -> Any:
        """Return the value that the worker answered with `Record`, or None where it recorded nothing."""
        text = self.meta.get("return") if self.meta.get("recorded") else None
        return erlang.decode(text) if isinstance(text, str) else None

    def update(self, changes: Mapping[str, object]) -> Self:
        """Change what a job may still change, in place, and return the job.

        Takes args, max_attempts, meta, priority, queue, scheduled_at, schedule_in, tags and worker. Raises InvalidJob
        as the constructor does, also for what the job held already, and then nothing was changed.
        """
        checked = validation.changes(changes)
        checked = {**validation.whole({**vars(self), **checked}), **checked}
        validation.attempt(self.attempt, checked.get("max_attempts", self.max_attempts))
        if "scheduled_at" in checked and self.state == JobState.AVAILABLE:
            checked["state"] = JobState.SCHEDULED
        for column, value in checked.items():
            setattr(self, column, value)
        return self

    def __str__(self) -> str:
        id_, worker, queue, state, _ = self._shown()
        args = "?"
        if "args" in (loaded := self.__dict__):
            from oban_sa.jobs import redaction

            args = _as_json(redaction.args(loaded["args"], loaded.get("meta")))
        return f"Job(id={id_}, worker={worker.rpartition('.')[2]}, args={args}, queue={queue}, state={state})"

    def __repr__(self) -> str:
        id_, worker, queue, state, attempt = self._shown()
        return f"<Job id={id_} worker={worker} queue={queue} state={state} attempt={attempt}>"

    def _shown(self) -> tuple[str, ...]:
        # Showing a job must neither query nor fail, also without its session: an expired column shows as "?".
        identity = inspect(self).identity
        loaded = {"id": identity[0] if identity else None, **self.__dict__}
        return tuple(str(loaded.get(column, "?")) for column in ("id", "worker", "queue", "state", "attempt"))


_manager: Final[Any] = Job.__mapper__.class_manager
_new_instance: Final[Any] = _manager.new_instance
_OWN_LISTENERS: Final = len(_manager.dispatch.init)  # SQLAlchemy's own, who sees to it that mappers are configured
_NEW: Final[Mapping[str, object]] = {
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
_MOMENTS: Final = ("inserted_at", "scheduled_at", "attempted_at", "cancelled_at", "completed_at", "discarded_at")


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _as_json(args: object) -> str:
    try:
        return orjson.dumps(args, default=repr, option=orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except TypeError:  # keys that are not strings, numbers beyond 64 bits, cycles: still worth showing
        try:
            return repr(args)
        except Exception:  # nested too deep, or of a class whose repr() fails
            return json_text.write(args, default=repr)
