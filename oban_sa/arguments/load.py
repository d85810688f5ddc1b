"""Loads the mapped objects among an attempt's arguments, in the attempt's own session."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapper, Session

from oban_sa.arguments.entities import Entity, How, Row, rows
from oban_sa.arguments.locks import ForUpdate
from oban_sa.arguments.mismatch import Decode, Gone, Locked, Misfit, at
from oban_sa.errors import EntityLocked, EntityNotFound, articled
from oban_sa.jobs.answers import Cancel, Snooze
from oban_sa.jobs.references import Reference
from oban_sa.sql.errors import sqlstate

T = TypeVar("T")

SNOOZE: Final = 5
"""Seconds until a job is tried again whose row another transaction has locked, where it doesn't wait for it."""

_LOCK_NOT_AVAILABLE: Final = "55P03"

OnMissing: TypeAlias = Literal["cancel", "raise", "none"]
"""What becomes of a job whose row is gone: it is cancelled, the attempt fails, or the worker gets None."""

MISSING: Final[tuple[OnMissing, ...]] = get_args(OnMissing)


class _Answered(Exception):
    """The attempt has its answer before the code began."""

    def __init__(self, answer: Cancel | Snooze) -> None:
        super().__init__(answer)
        self.answer = answer


def call_with_objects(
    decode: Callable[[], T], call: Callable[[T], object], session: Any, on_missing: OnMissing, *, on_loop: bool
) -> object:
    """Call with what `decode` makes of a job's args, the mapped objects among them loaded in `session`.

    Where a row is gone, or locked by others, the answer may be a `Cancel` or a `Snooze` instead; else `EntityNotFound`
    or `EntityLocked` is raised. `on_loop` the session is an asynchronous one, and what returns is to be awaited.
    """
    if on_loop:
        return _call_on_loop(decode, call, session, on_missing)
    try:
        args = _loaded(decode, session, on_missing)
    except _Answered as early:
        return early.answer
    return call(args)


async def _call_on_loop(
    decode: Callable[[], T], call: Callable[[T], object], session: AsyncSession, on_missing: OnMissing
) -> object:
    def load(sync: Session) -> T:
        return _loaded(decode, sync, on_missing)

    try:
        args = await session.run_sync(load)
    except _Answered as early:
        return early.answer
    answer = call(args)
    return await answer if inspect.isawaitable(answer) else answer


def _loaded(decode: Callable[[], T], session: Session, on_missing: OnMissing) -> T:
    token = rows.set(SessionRows(session, on_missing))
    try:
        return decode()
    except EntityNotFound as gone:
        if on_missing == "cancel":
            raise _Answered(Cancel(str(gone))) from None
        raise
    except EntityLocked as locked:
        if locked.skipped:
            raise _Answered(Snooze(SNOOZE)) from None
        raise
    finally:
        rows.reset(token)


def prefetch(converters: Iterable[tuple[str, Decode]], given: Mapping[str, object]) -> None:
    """Load what several parameters name of one class by one statement."""
    together: dict[tuple[Mapper[Any], How], list[tuple[str, Entity]]] = {}
    for name, decode in converters:
        if isinstance(decode, Entity):
            together.setdefault((decode.mapper, decode.how), []).append((name, decode))
    for several in together.values():
        if len(several) > 1:
            with suppress(Misfit):  # it will be met again where its path is known
                several[0][1].prefetch([given[name] for name, _ in several])


class SessionRows:
    """Loads with a synchronous session; under an asynchronous one inside its `run_sync`."""

    def __init__(self, session: Session, on_missing: OnMissing) -> None:
        self._session = session
        self._on_missing = on_missing
        # Also keeps them alive: the session's identity map is weak.
        self._held: dict[tuple[How, Row], object] = {}

    def one(self, entity: Entity, row: Row) -> object:
        """Return the object; None for a row that is gone, where that was asked for."""
        found = self._held.get((entity.how, row))
        if found is None:
            found = self._held[entity.how, row] = self._load(entity, row)
        if found is not None:
            return found
        lock = entity.how.lock
        if lock is not None and lock.skip_locked and self._session.get(row.mapper.class_, row.key) is not None:
            raise Locked(f"is the {entity.name} {row}, which another transaction has locked", skipped=True)
        if self._on_missing == "none":
            return None
        raise Gone(f"is the {entity.name} {row}, and there is no such row any more")

    def take(self, reference: Reference) -> None:
        """Do nothing: rows hold no references."""

    def prefetch(self, entity: Entity, values: Sequence[object]) -> None:
        """Load what several JSON values name by one statement, which locks the rows in the order of their keys."""
        mapper = entity.mapper
        wanted = [at(index, entity.row, value) for index, value in enumerate(values)]
        keys = [row.key for row in dict.fromkeys(wanted) if (entity.how, row) not in self._held]
        if len(keys) < 2 or any(row.mapper is not mapper for row in wanted):
            return
        columns = mapper.primary_key
        chosen: ColumnElement[bool] = (
            columns[0].in_([key[0] for key in keys]) if len(columns) == 1 else tuple_(*columns).in_(keys)
        )
        statement = select(mapper.class_).where(chosen).options(*entity.how.options)
        if entity.how.lock is not None:
            # Always in the same order, so that two jobs with the same rows wait for each other and never in a circle.
            statement = statement.order_by(*columns).with_for_update(**_locking(entity))
            statement = statement.execution_options(populate_existing=True)
        for found in _asked(entity, lambda: self._session.scalars(statement).unique().all()):
            self._held[entity.how, Row(mapper, tuple(mapper.primary_key_from_instance(found)))] = found

    def _load(self, entity: Entity, row: Row) -> object:
        how: dict[str, Any] = {"options": entity.how.options}
        if entity.how.lock is not None:
            how |= {"with_for_update": _locking(entity), "populate_existing": True}
        return _asked(entity, lambda: self._session.get(row.mapper.class_, row.key, **how))


def _locking(entity: Entity) -> dict[str, Any]:
    # Of these tables only: what is joined to load relationships stays free, and PostgreSQL refuses to lock the nullable
    # side of a join.
    return {**dataclasses.asdict(entity.how.lock or ForUpdate()), "of": list(entity.mapper.tables)}


def _asked(entity: Entity, load: Callable[[], T]) -> T:
    try:
        return load()
    except DBAPIError as error:
        if entity.how.lock is not None and entity.how.lock.nowait and sqlstate(error) == _LOCK_NOT_AVAILABLE:
            raise Locked(f"is {articled(entity.name)} that another transaction has locked", skipped=False) from None
        raise
