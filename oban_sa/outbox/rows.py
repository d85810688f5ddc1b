"""New jobs as parameters of the statements that insert them, and those statements on their way to the server.

Where no event and no log would see the difference, the driver runs a statement without `Connection.execute`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeAlias, cast

from sqlalchemy import Connection, CursorResult
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.exc import FlushError

from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.outbox.announcements import schema_named
from oban_sa.sql import insert
from oban_sa.sql.insert import Form, Kind
from oban_sa.sql.notify import Notice
from oban_sa.sql.rendered import Given, rendered

Row: TypeAlias = tuple[Kind, str]
"""A job as it is inserted: what it may have in common with others, and its args as JSON."""

Answer: TypeAlias = Sequence[Sequence[Any]]
"""Rows that a statement returned."""

JOBS: Final = 10_000
"""Jobs that one statement inserts at most."""

SIZE: Final = 8_000_000
"""Characters of args above which one statement takes no more jobs: they are one parameter, which the server parses."""

_Common: TypeAlias = tuple[str, str, JobState, int, int, list[str]]
"""Worker, queue, state, max_attempts, priority and tags."""

_given: Final = itemgetter(
    *("worker", "queue", "state", "max_attempts", "priority", "tags", "meta", "args", "attempt", "attempted_by")
)
_TYPES: Final = (str, str, JobState, int, int, list, dict, dict, int, list)


def rows(jobs: Sequence[Job]) -> list[Row] | None:
    """Return the rows of new jobs whose args and meta are plain JSON; None where only a mapper can write one of them.

    That is a job with an id, with errors, attempts or moments of its past, or with SQL expressions as values.
    """
    found: list[Row] = []
    shared: object = None
    shared_rest: object = None
    kind: Kind | None = None
    for job in jobs:
        loaded = vars(job)
        try:
            given = _given(loaded)
            is_new = (
                loaded["inserted_at"] is loaded["attempted_at"] is loaded["completed_at"] is None
                and loaded["cancelled_at"] is loaded["discarded_at"] is None
            )
            moment = loaded["scheduled_at"]
        except KeyError:
            return None
        if not is_new or tuple(map(type, given)) != _TYPES or "id" in loaded:
            return None
        common, (meta, args, attempt, attempted_by) = given[:6], given[6:]
        errors = loaded.get("errors")
        if attempt or attempted_by or (errors is not None and (type(errors) is not list or errors)):
            return None
        span = None
        if moment is not None:
            if type(moment) is Later:
                span, moment = moment.span, None
            elif type(moment) is not datetime:
                return None
        # As text, for 1 and True are equal as values.
        rest = (values.dumps(meta) if meta else "{}", moment, span)
        if kind is None or common != shared or rest != shared_rest:
            if not all(type(tag) is str for tag in common[5]):
                return None
            shared, shared_rest, kind = common, rest, _kind(common, *rest)
        # Not the bytes of orjson, of which each keeps a piece of memory that is larger than itself.
        found.append((kind, values.dumps(sealed(common[0], args, meta) if meta else args)))
    return found


def sealed(worker: str, args: Mapping[str, object], meta: Mapping[str, object]) -> Mapping[str, object]:
    """Return args as their row has them: encrypted, where the meta of the job says so."""
    if meta.get("encrypted") is not True:
        return args
    from oban_sa.jobs import encryption

    return args if encryption.is_sealed(args) else encryption.seal(worker, args)


def seal(job: Job) -> None:
    """Give a job that a mapper is about to write its args as their row has them."""
    loaded = vars(job)
    args, meta = loaded.get("args"), loaded.get("meta")
    if isinstance(args, dict) and isinstance(meta, dict) and meta:
        loaded["args"] = sealed(job.worker, cast("JSONDict", args), cast("JSONDict", meta))


def seal_again(job: Job) -> None:
    """Seal args that a session has changed; raises `InvalidArguments` where they hold references."""
    if "args" in instance_state(job).committed_state and job.meta.get("encrypted") is True:  # which may be loaded now
        if values.has_references(job.args):
            raise InvalidArguments(
                "args of a stored job that is encrypted can't hold ref(...); write the value", path="args"
            )
        seal(job)


def written(
    connection: Connection,
    rows: Sequence[Row],
    notice: Notice | None,
    *,
    returning: bool,
    ids: Sequence[int] | None = None,
) -> Iterator[tuple[Answer, slice]]:
    """Insert `rows` by as few statements as they need; yield for each what it returns and which rows it has inserted.

    The last one, which mostly is the only one, sends what `notice` announces; with `returning` what they return is
    for `take_in`. `ids` are those that the rows get, ascending; without them the database makes them.
    """
    several = notice is not None and len(notice.payloads) > 1
    for form, parameters, these in _batches(rows, ids, several=several):
        told = notice if these.stop == len(rows) else None
        if told is not None:
            parameters |= told.parameters_of_one() if form == "one" else told.parameters()
        answer = _insert(
            connection,
            form,
            parameters,
            returning=returning,
            notifying=told is not None,
            with_ids=ids is not None,
        )
        yield answer, these


def take_in(answer: Answer, jobs: Sequence[Job]) -> None:
    """Give `jobs` what the database has set in their rows, which are in `answer` as `inserting_values` returned them.

    Raises SQLAlchemy's `FlushError` where there are not as many.
    """
    if len(answer) != len(jobs):
        raise FlushError(
            f"{len(jobs)} jobs were inserted, and {len(answer)} rows came back; a trigger or a rule of oban_jobs must "
            "let every row be inserted"
        )
    latest: datetime | None = None
    began: datetime | None = None
    for row, job in zip(answer, jobs, strict=True):
        inserted_at, scheduled_at = row[1], row[2]
        if inserted_at != latest:  # nearly always the same in all rows
            latest, began = inserted_at, inserted_at.replace(tzinfo=UTC)
        # Past the instrumentation, as the mapper does it.
        loaded = vars(job)
        loaded["id"] = row[0]
        loaded["inserted_at"] = began
        loaded["scheduled_at"] = began if scheduled_at == latest else scheduled_at.replace(tzinfo=UTC)
        loaded["errors"] = []


def let_go(job: Job) -> None:
    """Make a job that `take_in` was given a detached one, as if a session had written it and let it go."""
    state = instance_state(job)
    # What is not loaded is the program's, such as relationships, which it is to be told are not there.
    if state.modified or not state.manager.keys() <= vars(job).keys():
        make_transient_to_detached(job)
    else:  # the same, where there is nothing to forget
        state.key = (Job, (job.id,), None)


def _batches(
    rows: Sequence[Row], ids: Sequence[int] | None, *, several: bool
) -> Iterator[tuple[Form, dict[str, object], slice]]:
    """Yield for each statement that inserts some of `rows`: its form, its parameters, and which of them.

    With `several` it may have to announce more than one queue, which the form "one" can't.
    """
    start = 0
    while start < len(rows):
        end, size = start, 0
        while end < len(rows) and end - start < JOBS and size < SIZE:
            size += len(rows[end][1])
            end += 1
        batch = rows[start:end] if end - start < len(rows) else rows
        kind, these = batch[0][0], slice(start, end)
        if len(batch) == 1 and not several:
            parameters: dict[str, object] = {**kind._asdict(), "args": batch[0][1]}
            if ids is not None:
                parameters["id"] = ids[start]
            yield "one", parameters, these
        elif ids is None and all(each is kind or each == kind for each, _ in batch):
            yield "alike", insert.alike(kind, [args for _, args in batch]), these
        else:
            yield "different", insert.different(batch, None if ids is None else ids[these]), these
        start = end


def _kind(common: _Common, meta: str, moment: datetime | None, span: timedelta | None) -> Kind:
    worker, queue, state, max_attempts, priority, tags = common
    if moment is not None and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return Kind(  # by places, as names take half as long again
        worker,
        queue,
        state.value,
        max_attempts,
        priority,
        insert.array_text(tags) if tags else "{}",
        meta,
        None if moment is None else moment.isoformat(),
        None if span is None else span.total_seconds(),
    )


def _insert(
    connection: Connection,
    form: Form,
    parameters: dict[str, object],
    *,
    returning: bool,
    notifying: bool,
    with_ids: bool,
) -> Answer:
    """Run `inserting_values` on a connection, and return the rows that it answers with `returning`."""
    events: Any = connection.dispatch
    if events.before_execute or events.after_execute:  # which are told of statements, and not of texts
        composed = insert.inserting_values(form, returning=returning, notifying=notifying, with_ids=with_ids)
        return _all(connection.execute(composed, parameters))
    schema = schema_named(connection)
    statement = rendered(connection.dialect, schema, form, returning=returning, notifying=notifying, with_ids=with_ids)
    given = statement.given(parameters)
    watched = is_watched(events, connection.dialect.dispatch, connection.engine.logger)
    if returning and not watched and _is_in_transaction(connection):
        return _by_driver(connection, statement.text, given)
    return _all(connection.exec_driver_sql(statement.text, given))


def is_watched(events: Any, of_dialect: Any, log: Any) -> bool:
    """Whether a program is told of statements: by events of a connection or engine, of the dialect, or by the log."""
    return bool(
        events.before_cursor_execute
        or events.after_cursor_execute
        or of_dialect.do_execute
        or of_dialect.handle_error
        or log.isEnabledFor(logging.INFO)
    )


def fail(connection: Connection, raised: BaseException, text: str, parameters: Given, cursor: Any = None) -> NoReturn:
    """Raise what SQLAlchemy makes of an error of the driver, and give up the connection where it would."""
    # After these the connection may be broken, or still busy with the statement of a task that was cancelled.
    known = (connection.dialect.loaded_dbapi.Error, TimeoutError)
    if isinstance(raised, known) or not isinstance(raised, Exception):
        handle = connection._handle_dbapi_exception  # pyright: ignore[reportPrivateUsage]
        handle(raised, text, parameters, cursor, None)
    if cursor is not None:
        cursor.close()
    raise raised


def _is_in_transaction(connection: Connection) -> bool:
    """Whether there is a transaction that a commit of the connection would end; SQLAlchemy begins one where not."""
    transaction = connection.get_transaction()
    return transaction is not None and transaction.is_active


def _by_driver(connection: Connection, text: str, parameters: Given) -> Answer:
    """Run a statement that returns rows, without a context and a result of SQLAlchemy's."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, parameters)
        rows = cursor.fetchall()
    except BaseException as raised:
        fail(connection, raised, text, parameters, cursor)
    cursor.close()
    return rows


def _all(result: CursorResult[Any]) -> Answer:
    return result.all() if result.returns_rows else ()
