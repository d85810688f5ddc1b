"""Journals of jobs in tests: in memory while an attempt runs, since its session may roll back what stands beside."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import Final, TypeVar, cast

from sqlalchemy import Double, Table, delete, literal, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from oban_sa import telemetry
from oban_sa.errors import InvalidOption, shown
from oban_sa.jobs import values
from oban_sa.jobs.durable import JOURNAL
from oban_sa.models import Entry as Row
from oban_sa.models import Job, SentSignal
from oban_sa.runner.cluster.attempt_age import naive
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.home import Wait
from oban_sa.runner.execution.journals import entry_of, write_in
from oban_sa.schedule import clock
from oban_sa.sql.expressions import seconds_later, utc_clock
from oban_sa.sql.fetch import jobs
from oban_sa.sql.steps import read
from oban_sa.steps.journal import Entry, Journal, driven
from oban_sa.testing.binds import Binding
from oban_sa.workers.loop import awaited

T = TypeVar("T")

_journal: Final[Table] = Row.metadata.tables["public.oban_sa_journal"]
_signals: Final[Table] = SentSignal.metadata.tables["public.oban_sa_signals"]


class InTest:
    """The home of attempts that are drained."""

    def __init__(self, binding: Binding, signals: Mapping[str, object], *, skips: bool) -> None:
        """`signals` are what jobs wait for, by their names; `skips` whether no time is waited for."""
        self._binding = binding
        self._signals = signals
        self._skips = skips
        self._under_way: dict[int, Drained] = {}

    def tables(self, running: Running, wait: Wait) -> Drained:
        """Return the tables of one attempt."""
        made = Drained(self._binding, running, wait, self._signals, skips=self._skips)
        self._under_way[running.attempt.job_id] = made
        return made

    async def keep(self, job_id: int) -> None:
        """Write what an attempt has journalled, now that its session has ended."""
        if (tables := self._under_way.pop(job_id, None)) is not None:
            await tables.keep()

    async def close(self) -> None:
        """Nothing was opened."""


class Drained:
    """The journal of one attempt that is drained."""

    def __init__(
        self, binding: Binding, running: Running, wait: Wait, signals: Mapping[str, object], *, skips: bool
    ) -> None:
        self._binding = binding
        self._attempt = running.attempt
        self._wait = wait
        self._signals = signals
        self._skips = skips
        self._written: dict[str, tuple[Entry, float | None]] = {}
        self._taken: list[int] = []
        self._marked = False

    async def read(self) -> Iterable[Entry]:
        """Return all entries of the job; where no time is waited for, the sleeps are over."""
        rows = await self._binding.fetch(read(self._binding.schema), {"job_id": self._attempt.job_id})
        entries = [entry_of(dict(row)) for row in rows]
        return [
            entry if entry.seconds is None or not self._skips else entry._replace(seconds=min(entry.seconds, 0.0))
            for entry in entries
        ]

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Keep an entry until the attempt has ended."""
        written = entry
        if delay is not None:
            until = int((clock.now().timestamp() + delay) * 1000)
            written = entry._replace(seconds=0.0 if self._skips else delay, ms=until, at=clock.monotonic())
        self._written[entry.name] = written, delay
        return written

    async def wait(self, key: str, name: str, *, within: float | None) -> Entry:
        """Take a signal that the test has given, or one that was sent."""
        entry = Entry(key, "wait_for")
        if (given := _among(self._signals, key, name)) is not None:
            return await self.write(entry._replace(value=given))
        query = select(_signals.c.id, _signals.c.payload).where(
            _signals.c.job_id == self._attempt.job_id, _signals.c.name == name, _signals.c.id.not_in(self._taken)
        )
        for row in await self._binding.fetch(query.order_by(_signals.c.id).limit(1)):
            self._taken.append(row["id"])
            return await self.write(entry._replace(value=_received(row["payload"])))
        known = {each.name: each for each in await self.read()}.get(key)
        left = within if known is None else known.left
        if left is not None and (self._skips or left <= 0):
            return await self.write(entry)
        return await self.write(entry._replace(done=False), delay=left)

    async def mark(self) -> None:
        """Have the next attempt read the journal before its code begins."""
        self._marked = True

    def write_in(self, session: Session, entry: Entry) -> tuple[Entry | None, bool]:
        """Write an entry in a session's transaction."""
        moment = self._attempt.attempted_at
        return write_in(session, entry, lambda: [] if moment is None else naive([moment]), self._attempt)

    def end(self, session: Session, *, keep: bool) -> None:
        """Commit a session, or roll it back."""
        session.commit() if keep else session.rollback()

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        """Have something done on the loop, and return its result."""
        return self._wait(awaitable)  # type: ignore[return-value]

    async def keep(self) -> None:
        """Write what was journalled."""
        job_id = self._attempt.job_id
        for entry, delay in self._written.values():
            made = insert(_journal).values(
                job_id=job_id,
                name=entry.name,
                code=entry.code,
                value=null() if entry.value is None else entry.plain,
                until=null() if delay is None else seconds_later(utc_clock(), literal(delay, Double())),
                done=entry.done,
                attempt=self._attempt.attempt,
            )
            changed = {name: made.excluded[name] for name in ("value", "done", "attempt")}
            await self._binding.fetch(made.on_conflict_do_update(index_elements=["job_id", "name"], set_=changed))
        if self._taken:
            await self._binding.fetch(delete(_signals).where(_signals.c.id.in_(self._taken)))
        if self._marked:
            meta = jobs.c.meta.op("||")({JOURNAL: True})
            await self._binding.fetch(update(jobs).where(jobs.c.id == job_id).values(meta=meta))


class Performed:
    """The journal of code that `perform_job` runs: what the test has given, and no database."""

    def __init__(self, journal: Mapping[str, object], signals: Mapping[str, object]) -> None:
        self._entries = [Entry(name, "", values.dumps(_plain(value, name))) for name, value in journal.items()]
        self._signals = signals

    async def read(self) -> Iterable[Entry]:
        """Return what was given."""
        return self._entries

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Write nothing; a sleep is over at once."""
        return entry if delay is None else entry._replace(seconds=0.0)

    async def wait(self, key: str, name: str, *, within: float | None) -> Entry:
        """Take a signal that was given, or find that the time is up; without a time the job is suspended."""
        entry = Entry(key, "wait_for")
        if (given := _among(self._signals, key, name)) is not None:
            return entry._replace(value=given)
        return entry if within is not None else entry._replace(done=False)

    async def mark(self) -> None:
        """Mark nothing."""

    def write_in(self, session: Session, entry: Entry) -> tuple[Entry | None, bool]:
        """Write nothing."""
        return entry, True

    def end(self, session: Session, *, keep: bool) -> None:
        """Neither commit nor roll back: the session is the test's."""

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        """Return the result of what never pauses."""
        return driven(awaited(awaitable))


class Performing:
    """The attempt that `perform_job` stands for."""

    def __init__(
        self, job: Job, journal: Mapping[str, object], signals: Mapping[str, object], *, is_of_many: bool
    ) -> None:
        self.is_of_many = is_of_many
        source = telemetry.Source(node="perform_job")
        self.journal = Journal(Performed(journal, signals), job, source=source, marked=True, fresh=False)


def by_name(given: object, word: str) -> dict[str, object]:
    """Return what a test gives by names; raises `InvalidOption` where that is no dict of them."""
    if given is None:
        return {}
    words = f"{word} is a dict by names, such as {word}={{'approval': True}}, not {shown(given)}"
    found = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else {None: None}
    if not all(isinstance(name, str) for name in found):
        raise InvalidOption(words)
    return dict(cast("Mapping[str, object]", found))


def _among(signals: Mapping[str, object], key: str, name: str) -> str | None:
    """Return the signal that is given for a wait: for the second of a name that of `name#2`, if there is one."""
    found = next((each for each in (key, name) if each in signals), None)
    return None if found is None else _received(signals[found])


def _plain(value: object, name: str) -> object:
    return values.to_json(value, where=f"journal[{name!r}]", typed=values.Typed())


def _received(payload: object) -> str:
    plain: object = values.to_json(payload, where="payload")
    return values.dumps({"payload": plain, "sent_at": clock.now().isoformat()})
