"""Unique jobs of a session's flush: which of them are inserted, and which become the job that stands in their way.

1. `claim` as a flush begins, only where this transaction has claimed keys before: two transactions that claim
   the same keys in opposite order would wait for each other. So this claim waits in a savepoint, and not for long;
   and it is made before the flush, because an error within one would cost the session its transaction.
2. `claim`, as the flush writes its jobs: it claims the keys of the others in one statement, once references are known.
   What has its key is inserted with an id that the claim has chosen. What has not gets the columns of the job that
   stands in its way, at once, so that foreign keys and relationships of the same flush point at that one.
3. `finish`, as the flush ends: such an object becomes persistent as that row. Where the session has an object for the
   row already, it stays outside, detached.

A claim has no row for a job whose key another transaction has committed meanwhile; it is claimed once more, by a
statement that sees it. Jobs of one flush with the same key are decided here, in their order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import InstanceState, Session, UOWTransaction, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from oban_sa.errors import InvalidArguments, UniqueBusy
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import JOINED_FOR, Conflict, Unique
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.outbox.claim import answer, blockers, hurrying, must_come_early, note_claimed, state_of, unique_of
from oban_sa.outbox.conflicts import tell
from oban_sa.outbox.sessions import by_connection
from oban_sa.schedule import clock
from oban_sa.sql import claim

TURNS: Final = 1_000
"""How often jobs are claimed again; each time another transaction has committed one of their keys, or another job of
the flush has got one."""


class _Won(NamedTuple):
    """A job that may be inserted."""

    id: int
    key: str


class _Lost(NamedTuple):
    """A job in whose way another stands."""

    given: Mapping[str, object]
    """What it was before."""
    before: tuple[JobState, datetime]
    """The state and `scheduled_at` that the other had before something of it was replaced."""
    first: Job | None
    """The other, where it is of the same flush."""


class Claims:
    """What one session's flush has found out about its unique jobs."""

    __slots__ = ("_holders", "_lost", "_won")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a flush, and forget what one that failed left behind."""
        self._won: dict[InstanceState[Job], _Won] = {}
        self._holders: dict[str, InstanceState[Job]] = {}
        """Those of `_won` by their keys, of each the first."""
        self._lost: dict[InstanceState[Job], _Lost] = {}

    def is_decided(self, job: Job) -> bool:
        """Whether this flush has claimed the key of a job."""
        state = instance_state(job)
        return state in self._won or state in self._lost

    def claim(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Decide what becomes of unique jobs, whose args and meta are plain JSON.

        Raises `UniqueBusy` where that could become a deadlock, and `InvalidArguments` for a key that can't be known.
        """
        waiting = [job for job in jobs if not self.is_decided(job)]
        if not waiting:
            return
        for _ in range(TURNS):
            with hurrying(connection, needed=must_come_early(connection)):
                waiting = self._claim(connection, waiting)
            if not waiting:
                return
        raise UniqueBusy(f"other transactions claim the unique key of {waiting[0]} again and again; try it later")

    def won(self, jobs: Iterable[Job]) -> tuple[list[Job], list[int]]:
        """Return those of `jobs` that are to be inserted, and their ids, in the order of these."""
        found = sorted(((each.id, job) for job in jobs if (each := self._won.get(instance_state(job)))), key=_first)
        return [job for _, job in found], [identity for identity, _ in found]

    def lost(self) -> list[InstanceState[Job]]:
        """Return the states of all jobs of this flush that are not to be inserted."""
        return list(self._lost)

    def sooner(self) -> list[Job]:
        """Return the jobs that are available, or due earlier, because something of them was replaced."""
        found: list[Job] = []
        for state, each in self._lost.items():
            job = state.obj()
            if job is None or job.conflict is None or not job.conflict.replaced or each.first is not None:
                continue
            state_before, moment_before = each.before
            is_known = state_before == JobState.AVAILABLE and "queue" not in job.conflict.replaced
            if not is_known and (job.state == JobState.AVAILABLE or job.scheduled_at < moment_before):
                found.append(job)
        return found

    def give_ids(self) -> None:
        """Give jobs the ids that they are to be inserted with, for a mapper."""
        for state, each in self._won.items():
            state.dict["id"] = each.id

    def finish(self, session: Session, context: UOWTransaction) -> None:
        """Make the jobs that were not inserted persistent as the rows that stood in their way, as the flush ends."""
        lost = self._lost
        self.begin()
        told = [(each.given, job.conflict) for state, each in lost.items() if (job := state.obj()) and job.conflict]
        if told:
            tell(next(iter(by_connection(session, lost))), told)
        for state, each in lost.items():
            job = state.obj()
            if job is None:
                continue
            if each.first is not None:
                _fill(job, _columns(each.first))
            context.states.pop(state, None)  # else it would be made persistent as a new row
            session.expunge(job)
            make_transient_to_detached(job)
            # The first one of the same flush is made persistent only after this.
            there: object = each.first or session.identity_map.get(state.mapper.identity_key_from_instance(job))
            if there is None:
                session.add(job)
            else:
                _point_at(context, job, there)

    def restore(self, state: InstanceState[Job]) -> None:
        """Give a job back what it was, where its flush has failed."""
        if (lost := self._lost.pop(state, None)) is not None:
            for name in list(state.dict):
                if name not in lost.given and name != "_sa_instance_state":
                    del state.dict[name]
            state.dict.update(lost.given)
        if (won := self._won.pop(state, None)) is not None:
            if self._holders.get(won.key) is state:
                del self._holders[won.key]
            if state.dict.get("id") == won.id:
                del state.dict["id"]

    def _claim(self, connection: Connection, jobs: Sequence[Job]) -> list[Job]:
        """Claim keys once, and return the jobs that are to be claimed again."""
        rows = answer(connection, jobs)
        older = blockers(connection, [row.blocker for row in rows.values() if row.blocker is not None])
        first: dict[str, Job] = {}  # of each key, what the others of the same key are compared with
        again: list[Job] = []
        for number, job in enumerate(jobs):
            row = rows.get(number)
            if row is None:  # another transaction was faster
                again.append(job)
            elif row.id is not None:
                holder = self._holders.get(row.key)
                earlier = None if holder is None else holder.obj()
                if earlier is not None and self._follow(earlier, job, in_database=False):
                    # Of the same flush and claimed early, so that the row of the one before is not there yet.
                    back = {"of_key": row.key, "to_id": self._won[instance_state(earlier)].id}
                    connection.execute(claim.GIVE_BACK, back)
                    continue
                self._win(job, _Won(row.id, row.key))
                first[row.key] = job
            elif row.blocker is not None:
                found = older.get(row.blocker)
                if found is None:  # deleted since
                    again.append(job)
                    continue
                self._lose(job, row, found)
                first[row.key] = job
            elif row.key not in first:
                again.append(job)
            elif not self._follow(first[row.key], job, in_database=True):
                del first[row.key]  # those after it are compared with it
                again.append(job)
        holds = any(row.id is not None for row in rows.values()) or any(unique_of(job).locks for job in jobs)
        if holds:
            note_claimed(connection)
        return again

    def _win(self, job: Job, won: _Won) -> None:
        state = instance_state(job)
        self._won[state] = won
        self._holders.setdefault(won.key, state)
        loaded = vars(job)
        loaded["meta"] = unique_of(job).marked(loaded.get("meta") or {}, won.key)

    def _lose(self, job: Job, row: Any, found: Mapping[str, object]) -> None:
        fields = tuple(values.from_json(row.fields)) if row.fields else ()
        given = dict(vars(job))
        before: datetime = row.scheduled_at.replace(tzinfo=UTC)
        self._lost[instance_state(job)] = _Lost(given, (JobState(row.state), before), None)
        _fill(job, found)
        job.conflict = Conflict(row.blocker, JobState(row.state), fields)

    def _follow(self, first: Job, job: Job, *, in_database: bool) -> bool:
        """Let a job become the one before it of the same key, if that stands in its way; return whether it does.

        Where that is a row already, and is to be changed, the database does it, if `in_database`.
        """
        wanted, state = unique_of(job), instance_state(first)
        if not _stands_in_way(vars(first), vars(job), wanted):
            return False
        old = state_of(vars(first))
        fields = wanted.replaced.get(old.value, ())
        won = self._won.get(state)
        given = dict(vars(job))
        if won is None:
            if fields and in_database:
                return False
            blocked = self._lost[state]
            self._lost[instance_state(job)] = _Lost(given, blocked.before, blocked.first)
            _fill(job, _columns(first))
            job.conflict = Conflict(vars(first)["id"], old)
            return True
        for name in fields:
            vars(first)[name] = _copied(given[name])
        if "scheduled_at" in fields:
            vars(first)["state"] = given["state"]
        if "meta" in fields:
            vars(first)["meta"] = wanted.marked(vars(first)["meta"], won.key)
        self._lost[instance_state(job)] = _Lost(given, (old, clock.now()), first)
        vars(job)["id"] = won.id
        job.conflict = Conflict(won.id, old, fields)
        return True


def refers(job: Job) -> bool:
    """Whether a job has references, so that its key may be unknown before its flush."""
    loaded = vars(job)
    return any(not values.is_flat(loaded.get(name)) and values.has_references(loaded[name]) for name in _JSON)


def check_known(job: Job, waiting: Mapping[str, object]) -> None:
    """Raise `InvalidArguments` where the key of a job is made of a reference whose value is not known yet.

    `waiting` are those of its args and meta that hold references.
    """
    wanted = unique_of(job)
    for column, value in waiting.items():
        keys = {"args": wanted.keys, "meta": wanted.meta_keys}[column]
        if column not in wanted.fields:
            continue
        for path, reference in references.references(value, column):
            is_part = not keys or any(
                path == f"{column}.{name}" or path.startswith(f"{column}.{name}") for name in keys
            )
            if is_part and not references.is_known(reference):
                raise InvalidArguments(
                    f"{path} is part of the unique key of {job}, and {reference!r} gets its value only after the job "
                    "is written; flush its object first: session.flush([...]) or await session.flush()",
                    path=path,
                )


_JSON: Final = ("args", "meta")


def _first(pair: tuple[int, Job]) -> int:
    return pair[0]


def _stands_in_way(older: Mapping[str, Any], newer: Mapping[str, Any], wanted: Unique) -> bool:
    """Decide as the claim does, for jobs of one flush."""
    state, now = state_of(older), clock.now()
    if state not in wanted.blocking:
        return False
    moment = _moment(older, now)
    if wanted.seconds is not None and moment <= _moment(newer, now) - timedelta(seconds=wanted.seconds):
        return False
    return not wanted.joins or state == JobState.SUSPENDED or moment > now - timedelta(seconds=JOINED_FOR)


def _moment(loaded: Mapping[str, Any], now: datetime) -> datetime:
    moment = loaded.get("scheduled_at")
    if not isinstance(moment, datetime):
        return now
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _fill(job: Job, columns: Mapping[str, object]) -> None:
    """Give a job the columns of a row, and nothing else that it had of its own."""
    loaded = vars(job)
    for attribute in instance_state(job).mapper.column_attrs:
        loaded.pop(attribute.key, None)
    loaded.update(columns)


def _columns(job: Job) -> dict[str, object]:
    loaded = vars(job)
    names = (attribute.key for attribute in Job.__mapper__.column_attrs)
    return {name: _copied(loaded[name]) for name in names if name in loaded}


def _copied(value: object) -> object:
    return copy.deepcopy(value)  # moments and texts are given back as they are


def _point_at(context: UOWTransaction, job: Job, there: object) -> None:
    """Let what the flush has written, and refers to `job`, refer to the session's own object for that row."""
    states: Any = context.states
    state: InstanceState[object]
    for state in list(states):
        for relationship in state.mapper.relationships:
            if (
                relationship.key in state.dict
                and state.dict[relationship.key] is job
                and (owner := state.obj()) is not None
            ):
                set_committed_value(owner, relationship.key, there)
