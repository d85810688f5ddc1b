"""The INSERT of jobs as a driver takes it: its text, and its parameters in their order.

SQLAlchemy looks a statement up, puts the schema in, converts the parameters and prepares for all kinds of results, each
time that it runs one: for a single job this takes longer than the job itself. What jobs are written with are texts and
numbers, and what comes back are an id and two moments, which need no conversion. So the text is rendered once for a
dialect and a schema, and the driver runs it where nothing would see the difference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn, TypeAlias

from sqlalchemy import Connection, CursorResult, Dialect, Engine

from oban_sa.sql.insert import Form, inserting_values

Rows: TypeAlias = Sequence[Sequence[Any]]

Given: TypeAlias = tuple[object, ...] | dict[str, object]
"""Parameters as a driver takes them: by their positions, or by their names."""


class Rendered(NamedTuple):
    """A statement as a driver takes it."""

    text: str
    given: Callable[[dict[str, object]], Given]
    """Returns parameters that are given by their names as the driver takes them."""


@lru_cache(maxsize=256)
def rendered(
    dialect: Dialect, schema: str | None, form: Form, *, returning: bool, notifying: bool, with_ids: bool = False
) -> Rendered:
    """Return `insert.inserting_values` as text, with the tables in `schema`; None is the default one."""
    statement = inserting_values(form, returning=returning, notifying=notifying, with_ids=with_ids)
    compiled = statement.compile(dialect=dialect, schema_translate_map={"public": schema}, render_schema_translate=True)
    names: Sequence[str] | None = getattr(compiled, "positiontup", None)
    return Rendered(str(compiled), _as_they_are if names is None else _ordered(names))


def insert(
    connection: Connection,
    form: Form,
    parameters: dict[str, object],
    *,
    returning: bool,
    notifying: bool,
    with_ids: bool = False,
) -> Rows:
    """Run `insert.inserting_values` on a connection, and return the rows that it answers with `returning`."""
    events: Any = connection.dispatch
    if events.before_execute or events.after_execute:  # which are told of statements, and not of texts
        statement = inserting_values(form, returning=returning, notifying=notifying, with_ids=with_ids)
        return _all(connection.execute(statement, parameters))
    schema = schema_named(connection)
    text, given = rendered(
        connection.dialect, schema, form, returning=returning, notifying=notifying, with_ids=with_ids
    )
    if returning and _is_in_transaction(connection) and not is_watched(connection):
        return _by_driver(connection, text, given(parameters))
    return _all(connection.exec_driver_sql(text, given(parameters)))


def is_watched(bind: Connection | Engine) -> bool:
    """Whether a program is told of the statements of a connection or an engine, by events or by the log."""
    events: Any = bind.dispatch
    of_dialect: Any = bind.dialect.dispatch
    return bool(
        events.before_cursor_execute
        or events.after_cursor_execute
        or of_dialect.do_execute
        or of_dialect.handle_error
        or bind.engine.logger.isEnabledFor(logging.INFO)
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


def _by_driver(connection: Connection, text: str, parameters: Given) -> Rows:
    """Run a statement that returns rows, without a context and a result of SQLAlchemy's."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, parameters)
        rows = cursor.fetchall()
    except BaseException as raised:
        fail(connection, raised, text, parameters, cursor)
    cursor.close()
    return rows


def _all(result: CursorResult[Any]) -> Rows:
    return result.all() if result.returns_rows else ()


def schema_named(bind: Connection | Engine) -> str | None:
    """Return the schema in which a connection or an engine finds the tables; None where that is its default one."""
    translated: Mapping[str | None, str | None] | None = bind.get_execution_options().get("schema_translate_map")
    return "public" if translated is None else translated.get("public", "public")


def _ordered(names: Sequence[str]) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
    if len(names) == 1:
        return lambda parameters: (parameters[names[0]],)
    return itemgetter(*names)


def _as_they_are(parameters: dict[str, object]) -> dict[str, object]:
    return parameters
