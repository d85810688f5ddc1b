"""Jobs as the rows of PostgreSQL's binary COPY.

A row is the number of columns, then for each its length and its bytes, numbers with their highest byte first. The
columns that jobs of one worker have in common come first here, so that their bytes are made once and then repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from struct import Struct, error
from typing import Any, Final, TypeAlias

from oban_sa.errors import InvalidJob
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.models import Job, validation
from oban_sa.models.later import Later
from oban_sa.outbox.admission import plain
from oban_sa.outbox.rows import sealed

Encode: TypeAlias = Callable[[Job], bytes]
"""Makes the row of a job that `fits`."""

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
COLUMNS: Final = ("worker", "queue", "state", "max_attempts", "priority", "tags", "meta", "scheduled_at", "args")

_WITHOUT_PAST: Final[tuple[Any, ...]] = (0, [], None, None, None, None, None)
_past: Final = itemgetter(
    "attempt", "attempted_by", "inserted_at", "attempted_at", "completed_at", "cancelled_at", "discarded_at"
)
_common: Final = itemgetter("worker", "queue", "state", "max_attempts", "priority")
_own: Final = itemgetter("tags", "meta", "scheduled_at", "args")

_NUMBERS: Final = {"int2": Struct(">ih"), "int4": Struct(">ii"), "int8": Struct(">iq")}
_TEXTS: Final = {"text": 25, "varchar": 1043, "_text": 25, "_varchar": 1043}
_count: Final = Struct(">h").pack
_length: Final = Struct(">i").pack
_jsonb: Final = Struct(">iB").pack
_nothing: Final = Struct(">iiiI").pack
_array: Final = Struct(">iiiIii").pack
_moment: Final = Struct(">iq").pack
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EMPTY: Final = _jsonb(3, 1) + b"{}"
_MOST_REMEMBERED: Final = 1_000


def encoder(
    columns: Mapping[str, str], now: datetime, clock: Callable[[], datetime], queues: set[str]
) -> Encode | None:
    """Return the function that makes rows for a table with these `columns`, by their types; None for an unknown table.

    `now` is the moment of jobs without a schedule; `clock` says what spans count from. `queues` gets the queue of every
    available job. The function raises `InvalidJob` for values that no job can have, `InvalidArguments` where JSON can't
    hold what is in args or meta.
    """
    if not _known(columns):
        return None
    number, element = (_NUMBERS[columns["max_attempts"]], _NUMBERS[columns["priority"]]), _TEXTS[columns["tags"]]
    head = _count(len(COLUMNS))
    starts: dict[tuple[Any, ...], bytes] = {}
    labels: dict[tuple[str, ...], bytes] = {}
    plainest = _labels((), element) + _EMPTY + _since(now)

    def encode(job: Job) -> bytes:
        loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
        try:
            common = _common(loaded)
            tags, meta, moment, args = _own(loaded)
        except KeyError as missing:
            raise InvalidJob(f"{job} has no {missing} any more; make a new one") from None
        start = starts.get(common)
        if start is None:
            if len(starts) >= _MOST_REMEMBERED:
                starts.clear()
            start = starts[common] = _start(*common)
        if meta and "encrypted" in meta:
            args = sealed(loaded["worker"], plain(args, "args"), plain(meta, "meta"))
        written = (values.dumps_at_once(args) if type(args) is dict else None) or _dumped(args, "args")
        if not tags and not meta and moment is None:
            return start + plainest + _jsonb(len(written) + 1, 1) + written
        given: Any = tags if tags.__class__ is list else validation.tags(tags)
        key: tuple[str, ...] = tuple(given)
        tagged = labels.get(key)
        if tagged is None:
            if len(labels) >= _MOST_REMEMBERED:
                labels.clear()
            tagged = labels[key] = _labels(key, element)
        noted = _dumped(meta, "meta") if meta else b"{}"
        if moment.__class__ is Later:
            when = _since(clock() + moment.span)
        else:
            when = _since(now if moment is None else validation.moment(moment, "scheduled_at"))
        return b"".join((start, tagged, _jsonb(len(noted) + 1, 1), noted, when, _jsonb(len(written) + 1, 1), written))

    def _start(worker: Any, queue: Any, state: Any, max_attempts: Any, priority: Any) -> bytes:
        if state == JobState.AVAILABLE:
            queues.add(queue)
        try:
            return b"".join(
                (
                    head,
                    _text(validation.name(worker, "worker")),
                    _text(validation.name(queue, "queue")),
                    _text(validation.state(state)),
                    number[0].pack(number[0].size - 4, validation.max_attempts(max_attempts)),
                    number[1].pack(number[1].size - 4, validation.priority(priority)),
                )
            )
        except error:
            raise InvalidJob(f"max_attempts of {max_attempts} is more than this table's column can hold") from None

    return encode


def fits(job: Job) -> bool:
    """Whether a row here has room for all of a job: it is not unique, and has neither a past nor an id of its own."""
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    try:
        is_new = _past(loaded) == _WITHOUT_PAST and not loaded.get("id") and not loaded.get("errors")
        return is_new and "_unique" not in loaded
    except KeyError:
        return False


def _known(columns: Mapping[str, str]) -> bool:
    return (
        all(columns.get(name) in _NUMBERS for name in ("max_attempts", "priority"))
        and all(columns.get(name) in ("text", "varchar") for name in ("worker", "queue"))
        and columns.get("state") == "oban_job_state"
        and columns.get("tags") in ("_text", "_varchar")
        and columns.get("args") == columns.get("meta") == "jsonb"
        and columns.get("scheduled_at") == "timestamp"
    )


def _text(value: str) -> bytes:
    try:
        written = value.encode()
    except UnicodeEncodeError:
        raise InvalidJob(f"{value!r} contains a lone surrogate, which is no character") from None
    return _length(len(written)) + written


def _labels(tags: tuple[str, ...], element: int) -> bytes:
    cleaned = validation.tags(tags)
    if not cleaned:
        return _nothing(12, 0, 0, element)
    written = b"".join(map(_text, cleaned))
    return _array(20 + len(written), 1, 0, element, len(cleaned), 1) + written


def _dumped(value: Any, where: str) -> bytes:
    return values.dumps(plain(value, where)).encode()


def _since(moment: Any) -> bytes:
    span = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - _EPOCH
    return _moment(8, (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds)
