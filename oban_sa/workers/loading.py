"""Loads the mapped objects among an attempt's arguments, in the attempt's own session."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from sqlalchemy import select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from oban_sa.errors import EntityLocked, EntityNotFound, InvalidOption, articled
from oban_sa.outcomes import Cancel, Snooze
from oban_sa.sql.sqlstates import sqlstate
from oban_sa.workers.entities import Entity, How, Row, rows
from oban_sa.workers.fitting import Decode, Gone, Locked, Misfit
from oban_sa.workers.locks import ForUpdate
from oban_sa.workers.options import Executor, OnMissing

T = TypeVar("T")

SNOOZE: Final = 5
"""Seconds until a job is tried again whose row was locked by somebody else and is not waited for."""

_LOCK_NOT_AVAILABLE: Final = "55P03"


class Answered(Exception):
    """The attempt has its answer before the code began."""

    def __init__(self, answer: Cancel | Snooze) -> None:
        super().__init__(answer)
        self.answer = answer


def loaded(decode: Callable[[], T], session: Any, on_missing: OnMissing) -> T:
    """Return what `decode` makes of a job's args, with the mapped objects among them loaded in `session`.

    Raises `Answered` for a row that is gone, where the job is cancelled then, and for one that others have locked,
    where it is not waited for; else `EntityNotFound` and `EntityLocked`.
    """
    token = rows.set(SessionRows(session, on_missing))
    try:
        return decode()
    except EntityNotFound as gone:
        if on_missing == "cancel":
            raise Answered(Cancel(str(gone))) from None
        raise
    except EntityLocked as locked:
        if locked.skipped:
            raise Answered(Snooze(SNOOZE)) from None
        raise
    finally:
        rows.reset(token)


def prefetch(converters: Iterable[tuple[str, Decode]], given: Mapping[str, Any]) -> None:
    """Load what several parameters name of one class by one statement."""
    together: dict[tuple[Any, How], list[tuple[str, Entity]]] = {}
    for name, decode in converters:
        if isinstance(decode, Entity):
            together.setdefault((decode.mapper, decode.how), []).append((name, decode))
    for several in together.values():
        if len(several) > 1:
            with suppress(Misfit):  # it will be met again where its path is known
                several[0][1].prefetch([given[name] for name, _ in several])


def check_entities(
    entities: Sequence[Entity], session_class: Any, executor: Executor, on_missing: OnMissing, *, what: str
) -> None:
    """Refuse mapped objects that could not be loaded, or not be missing, and an `on_missing` that is about none."""
    if not entities:
        if on_missing != "cancel":
            raise InvalidOption(f"{what} has on_missing={on_missing!r}, but takes no mapped object that could be gone")
        return
    name = entities[0].name
    if executor == "process":
        raise InvalidOption(
            f"{what} takes {articled(name)}, but runs in another process, where no session reaches it; "
            f"take its key there, and load it in a session of your own"
        )
    if session_class is None:
        session = "Session" if executor == "thread" else "AsyncSession"
        raise InvalidOption(
            f"{what} takes {articled(name)}, which is loaded in the attempt's session; "
            f"take that too: session: {session}"
        )
    if on_missing == "none":
        for entity in entities:
            if not entity.nullable:
                raise InvalidOption(
                    f'{what} has on_missing="none", which gives None for a row that is gone; '
                    f"write {entity.name} | None where it takes {articled(entity.name)}"
                )


class SessionRows:
    """Loads with a synchronous session; under an asynchronous one inside its `run_sync`."""

    def __init__(self, session: Session, on_missing: OnMissing) -> None:
        self._session = session
        self._on_missing = on_missing
        # Also keeps them alive: the session's identity map is weak.
        self._held: dict[tuple[How, Row], Any] = {}

    def one(self, entity: Entity, row: Row) -> Any:
        """Return the object; None for a row that is gone, where that was asked for."""
        found = self._held.get((entity.how, row))
        if found is None:
            found = self._held[entity.how, row] = self._loaded(entity, row)
        if found is not None:
            return found
        lock = entity.how.lock
        if lock is not None and lock.skip_locked and self._session.get(row.mapper.class_, row.key) is not None:
            raise Locked(f"is the {entity.name} {row}, which another transaction has locked", skipped=True)
        if self._on_missing == "none":
            return None
        raise Gone(f"is the {entity.name} {row}, and there is no such row any more")

    def prefetch(self, entity: Entity, wanted: list[Row]) -> None:
        """Load several by one statement, which locks them in the order of their keys."""
        mapper = entity.mapper
        keys = [row.key for row in dict.fromkeys(wanted) if (entity.how, row) not in self._held]
        if len(keys) < 2 or any(row.mapper is not mapper for row in wanted):
            return
        columns = mapper.primary_key
        chosen: Any = columns[0].in_([key[0] for key in keys]) if len(columns) == 1 else tuple_(*columns).in_(keys)
        statement = select(mapper.class_).where(chosen).options(*entity.how.options)
        if entity.how.lock is not None:
            # Always in the same order, so that two jobs with the same rows wait for each other and never in a circle.
            statement = statement.order_by(*columns).with_for_update(**_locking(entity))
            statement = statement.execution_options(populate_existing=True)
        for found in _asked(entity, lambda: self._session.scalars(statement).unique().all()):
            self._held[entity.how, Row(mapper, tuple(mapper.primary_key_from_instance(found)))] = found

    def _loaded(self, entity: Entity, row: Row) -> Any:
        how: dict[str, Any] = {"options": entity.how.options}
        if entity.how.lock is not None:
            how |= {"with_for_update": _locking(entity), "populate_existing": True}
        return _asked(entity, lambda: self._session.get(row.mapper.class_, row.key, **how))


def _locking(entity: Entity) -> dict[str, Any]:
    # Of these tables only: what is joined to load relationships stays free, and PostgreSQL refuses to lock the nullable
    # side of a join.
    return {**dataclasses.asdict(entity.how.lock or ForUpdate()), "of": list(entity.mapper.tables)}


def _asked(entity: Entity, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except DBAPIError as error:
        if entity.how.lock is not None and entity.how.lock.nowait and sqlstate(error) == _LOCK_NOT_AVAILABLE:
            raise Locked(f"is {articled(entity.name)} that another transaction has locked", skipped=False) from None
        raise
