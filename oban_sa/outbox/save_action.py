"""The step of a flush that writes new jobs; all other steps stay SQLAlchemy's own.

A flush of SQLAlchemy's is a graph of actions. One of them saves the new and the changed objects of one mapper, which
for Job takes longer than its INSERT. So for Job's mapper this action is one of ours, which hands new jobs to the
outbox. The outbox writes them by one statement, or declines, and then the mapper saves them. SQLAlchemy's code still
finds out what is new and what depends on what, makes jobs persistent after the flush, and transient again where it
fails or is rolled back.

SQLAlchemy has no public function that puts an action into a flush. Where a version of it lacks one of the names that
this file uses, the mapper writes all jobs, and a warning in the log says so once.

Jobs are written after all other rows of their flush, so that the values of most references are known when their job is
written. Where another row needs that of a job, as with a foreign key to jobs, the order is SQLAlchemy's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeAlias

from sqlalchemy import event
from sqlalchemy.orm import InstanceState, Mapper, Session, unitofwork

from oban_sa.models import Job

logger = logging.getLogger("oban_sa.outbox")

_Private: TypeAlias = Any
"""An object of SQLAlchemy's that has no public type."""
_Edge: TypeAlias = tuple[_Private, _Private]
"""Two actions, of which the first comes before the second."""

Write: TypeAlias = Callable[[Session, list[InstanceState[Job]]], bool]
"""Writes the new jobs of a flush, in their order; returns False, having sent nothing, to leave them to the mapper."""

Claim: TypeAlias = Callable[[Session, list[InstanceState[Job]]], list[InstanceState[Job]]]
"""Claims the keys of unique jobs, which the mapper is about to insert; returns those that it must not insert."""

_NAMES: Final = ("_SaveUpdateAll", "SaveUpdateAll")  # in SQLAlchemy 2.1, and in 2.0
_Action: _Private = next((getattr(unitofwork, name) for name in _NAMES if hasattr(unitofwork, name)), None)
_DELETES: Final = ("_DeleteAll", "DeleteAll")
_Delete: _Private = next((getattr(unitofwork, name) for name in _DELETES if hasattr(unitofwork, name)), None)

_COLUMNS: Final = len(Job.__mapper__.column_attrs)
"""How many columns a job has here; a program may add some."""
_OURS_BEFORE: Final = 2
"""Our listeners to `before_insert`: of `models.job_events`, and of the outbox."""
_OURS_AFTER: Final = 1
"""Our listener to `after_insert`, of `models.job_events`."""
_order: Final = attrgetter("insert_order")


def join(write: Write, claim: Claim) -> None:
    """Have `write` called with the new jobs of each flush from now on; of subclasses of Job, the mapper writes all.

    `claim` is called with the unique ones among those that the mapper writes.
    """
    try:
        joined = _Join(write, claim)
        joined.add_to(Job.__mapper__)
    except (AttributeError, TypeError) as missing:
        _leave_to_mapper(missing)
    else:
        # Subclasses of Job have mappers of their own.
        event.listen(Job, "mapper_configured", joined.add_to, propagate=True)


class _Join:
    """Makes the action that saves jobs one of ours, in each flush that has jobs."""

    def __init__(self, write: Write, claim: Claim) -> None:
        self._action = _action(write, claim)
        self._deletion = _deletion()

    def add_to(self, mapper: Mapper[Job], _: type[Job] = Job) -> None:
        """Have a flush ask this one for its actions when it meets the first object of a mapper."""
        processors: list[_Private] = mapper._dependency_processors  # pyright: ignore[reportPrivateUsage]
        if self not in processors:
            processors.append(self)

    def per_property_preprocessors(self, uow: _Private) -> None:
        """Called by SQLAlchemy, once for each mapper of jobs in a flush."""
        try:
            action = uow.postsort_actions[_Action, Job.__mapper__]
            if action.__class__ is self._action:
                return
            last = _Last(action, uow.postsort_actions, uow.dependencies)
            uow.presort_actions[last] = last
            action.__class__ = self._action
            uow.postsort_actions[_Delete, Job.__mapper__].__class__ = self._deletion
        except (AttributeError, KeyError, TypeError) as missing:
            _leave_to_mapper(missing)


class _Last:
    """Sees to it that jobs are written after all other rows, where nothing depends on theirs.

    SQLAlchemy calls `execute` again and again, until no more actions and edges have come up; then it sorts the actions.
    """

    def __init__(self, action: _Private, actions: dict[_Private, _Private], edges: set[_Edge]) -> None:
        self._action = action
        self._actions = actions
        self._edges = edges
        self._ours: set[_Edge] = set()
        self._seen = 0, 0

    def execute(self, uow: _Private) -> bool:
        """Called by SQLAlchemy; says that it has brought up no new action."""
        action, actions, edges = self._action, self._actions, self._edges
        if self._seen == (len(actions), len(edges)):
            return False
        edges -= self._ours
        # Its own DELETEs always come after it.
        if any(first is action and getattr(then, "mapper", None) is not action.mapper for first, then in edges):
            self._ours = set()
        else:
            others = (each for each in actions.values() if each is not action and isinstance(each, _Action))
            self._ours = {(each, action) for each in others} - edges
            edges |= self._ours
        self._seen = len(actions), len(edges)
        return False


def _action(write: Write, claim: Claim) -> type[_Private]:
    """Return the class of actions that save jobs by `write`, or by the mapper after a `claim`."""

    class SaveJobs(_Action):  # type: ignore[misc]
        __slots__ = ()

        def execute(self, uow: _Private) -> None:
            states = _new_jobs(self, uow)
            if states and write(uow.session, states):
                return
            unique = [
                state
                for state in uow.states_for_mapper_hierarchy(self.mapper, False, False)
                if state.key is None and "_unique" in state.dict
            ]
            left_out = claim(uow.session, sorted(unique, key=_order)) if unique else []
            for state in left_out:
                uow.states[state] = False, True  # as if it were only referred to
            super().execute(uow)
            for state in left_out:
                uow.states[state] = False, False

    return SaveJobs


def _deletion() -> type[_Private]:
    """Return the class of actions that delete jobs, where there are any: the mapper prepares to in each flush."""

    class DeleteJobs(_Delete):  # type: ignore[misc]
        __slots__ = ()

        def execute(self, uow: _Private) -> None:
            if _has_deleted(self, uow):
                super().execute(uow)

    return DeleteJobs


def _has_deleted(action: _Private, uow: _Private) -> bool:
    try:
        return any(uow.states_for_mapper_hierarchy(action.mapper, True, False))
    except (AttributeError, TypeError) as missing:
        _leave_to_mapper(missing)
        return True


def _new_jobs(action: _Private, uow: _Private) -> list[InstanceState[Job]] | None:
    """Return the new jobs of a flush in the order in which they came; None where it saves other objects too."""
    try:
        mapper: Mapper[Job] = action.mapper
        states = list(uow.states_for_mapper_hierarchy(mapper, False, False))
        if any(state.key is not None or state.class_ is not Job for state in states):
            return None
        if uow.session.connection_callable is not None or not is_plain(mapper):
            return None
        states.sort(key=_order)
        return states
    except (AttributeError, TypeError) as missing:
        _leave_to_mapper(missing)
        return None


def is_plain(mapper: Mapper[Job]) -> bool:
    """Whether a job is what it is here: the program has added no columns to it, and listens to no INSERT."""
    listeners = mapper.dispatch
    return (
        len(listeners.before_insert) == _OURS_BEFORE
        and len(listeners.after_insert) == _OURS_AFTER
        and not mapper.class_manager.dispatch.refresh_flush
        and len(mapper.column_attrs) == _COLUMNS
        and mapper.polymorphic_on is None
    )


_told = False


def _leave_to_mapper(missing: Exception) -> None:
    global _told
    if not _told:
        _told = True
        logger.warning(
            "this version of SQLAlchemy keeps its unit of work in a way that is unknown here (%s: %s), so jobs are "
            "written by the mapper, as other objects are: nothing is lost, but flushes take longer",
            type(missing).__name__,
            missing,
        )
