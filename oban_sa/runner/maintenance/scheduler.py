"""The scheduler makes the jobs of crontab entries: one per tick in a cluster, by the database's clock."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from oban_sa import hooks, telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import values
from oban_sa.jobs.cron_entry import MOST_CAUGHT_UP, CronEntry, Due, Span
from oban_sa.jobs.unique import Unique
from oban_sa.models import Job
from oban_sa.models.types import args_from_database
from oban_sa.outbox import enqueued
from oban_sa.outbox.admission import admit, plain
from oban_sa.outbox.rows import sealed
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.led import EVER, Led
from oban_sa.schedule import clock
from oban_sa.schedule.elixir_cron import for_elixir
from oban_sa.sql import cron
from oban_sa.sql.cron_pauses import cron_key
from oban_sa.sql.lease import lease_name
from oban_sa.wire import messages
from oban_sa.workers.keys import Keys
from oban_sa.workers.registry import Registry

logger = logging.getLogger("oban_sa.runner")

GONE_AFTER: Final = 3600.0
"""Seconds for which a node has led without an entry, after which the entry's pause is forgotten. Not at once: while a
new version is rolled out, nodes with the entry and without it lead by turns."""

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_FOLLOWEVERY: Final = 1.0
_LEADEVERY: Final = 5.0


class Scheduler:
    """The part of a runner that makes the jobs of a crontab; every node has one, and that of the leading node works.

    A tick makes one job even where two nodes believe that they lead: see `oban_sa.sql.cron`. This machine's clock only
    decides how long to sleep.
    """

    def __init__(
        self,
        database: Database,
        entries: Sequence[CronEntry],
        *,
        source: telemetry.Source,
        registry: Registry,
        allow: Sequence[str] = (),
        announce: bool = True,
    ) -> None:
        """Take `entries` as `oban_sa.workers.crontab.resolved` returns them."""
        self.entries = entries
        self._registry = registry
        self._allow = allow
        self._source = source
        self._channel = messages.channel(database.schema, "insert") if announce else None
        self._keyed = {self._key(entry): entry for entry in self.entries}
        self._booting = {key for key, entry in self._keyed.items() if entry.schedule.reboot}
        self._lease = lease_name(source.name)
        self._schema = database.schema
        self._led: Led | None = None
        self._line = database.shared
        self._looking = database.prepare(cron.look)
        self._defining = database.prepare(cron.define)
        self._claiming = database.prepare(cron.claim)
        self._claiming_unique = database.prepare(cron.claim, unique=True)
        self._prefix = cron_key("", source.name)
        self._forgetting = database.prepare(cron.forget, instance=bool(self._prefix))
        self._forget_at: float | None = None
        self._paused: set[str] = set()

    async def tick(self) -> float:
        """Make the jobs that are due and return the seconds until the next are."""
        if not self._keyed:
            return 3600.0
        seen = await self._look()
        if not seen.leads:
            self._forget_at = None
            return _FOLLOWEVERY
        if unknown := [key for key, entry in self._keyed.items() if not _same(entry, seen.known.get(key))]:
            await self._define(unknown)
            seen = await self._look()
        if claims := self._claims(seen):
            with hooks.together():
                self._booting -= await self._claim(claims, seen.now)
        await self._forget()
        return self._rest(seen)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._line.close()

    async def _look(self) -> _Seen:
        rows = await self._line.fetch(self._looking, lease=self._lease, keys=list(self._keyed))
        at = clock.monotonic()
        now, node = _aware(rows[0]["now"]), rows[0]["node"]
        missed, leads = Span(EVER, now), False
        if node is not None:
            expires_at = _aware(rows[0]["expires_at"])
            leads = node == self._source.node and expires_at > now
            # An election in the future is an error of a clock; believed, all ticks until then would count as missed.
            self._led = Led.seen(now, min(_aware(rows[0]["elected_at"]), now), expires_at, self._led)
            missed = self._led.without
        known = {row["key"]: _Known.of(dict(row)) for row in rows if row["key"] is not None}
        return _Seen(now=now, at=at, leads=leads, missed=missed, known=known)

    async def _define(self, keys: Iterable[str]) -> None:
        rows = [
            {
                "key": key,
                "expression": (entry := self._keyed[key]).expression,
                "worker": entry.worker,
                "timezone": entry.timezone,
                "opts": _described(entry),
            }
            for key in keys
        ]
        await self._line.fetch(self._defining, entries=values.dumps(rows), lease=self._lease, node=self._source.node)

    async def _forget(self) -> None:
        """Forget pauses of entries that are in no crontab, if this node has led for so long that it is no rollout."""
        now = clock.monotonic()
        if self._forget_at is not None and now >= self._forget_at:
            given = {"prefix": self._prefix} if self._prefix else {}
            rows = await self._line.fetch(
                self._forgetting, keys=list(self._keyed), lease=self._lease, node=self._source.node, **given
            )
            for row in rows:
                logger.info("cron %s: its pause is forgotten, as the entry is in the crontab no longer", row["name"])
            self._forget_at = None
        if self._forget_at is None:
            self._forget_at = now + GONE_AFTER

    def _claims(self, seen: _Seen) -> list[_Claim]:
        claims: list[_Claim] = []
        for key, entry in self._keyed.items():
            known = seen.known.get(key)
            if known is None:  # another node has just become the leader
                continue
            if entry.schedule.reboot:
                due = Due((seen.now,), seen.now) if key in self._booting else Due((), None)
            else:
                due = entry.due(after=known.dealt_with, now=seen.now, missed=seen.missed)
            if len(due.ticks) == MOST_CAUGHT_UP:
                logger.warning("cron %s: ticks before %s were missed; they are dropped", entry.name, due.ticks[0])
            if due.until is not None:
                claims.append(_Claim(key, entry, known.last_at, due.ticks, due.until, known.paused))
        return claims

    async def _claim(self, claims: Sequence[_Claim], now: datetime) -> set[str]:
        started = clock.monotonic()
        # A paused entry spends its ticks, so that they are not made up for once it is resumed.
        jobs = [row for claim in claims if not claim.paused for row in self._jobs(claim)]
        is_unique = any("subject" in row for row in jobs)
        if is_unique:
            for number, row in enumerate(jobs):
                row["number"] = number
        rows = await self._line.fetch(
            self._claiming_unique if is_unique else self._claiming,
            claims=values.dumps([claim.row() for claim in claims]),
            jobs=values.dumps(jobs),
            channel=self._channel,
            lease=self._lease,
            node=self._source.node,
        )
        made = sum(row["jobs"] for row in rows)
        if hooks.JOBS_ENQUEUED.on:
            enqueued.tell(self._schema, self._counted(rows, jobs))
        paused = {row["key"] for row in rows if row["paused"]}
        self._tell_of_pauses(paused, {row["key"] for row in rows} - paused)
        skipped = [row["key"] for row in rows if row["busy"] and not row["paused"]]
        for key in skipped:
            logger.info("cron %s: skipped, because the job of the tick before is unfinished", self._keyed[key].name)
        telemetry.emit(
            telemetry.SchedulerTick(
                runner=self._source,
                at=now,
                count=made,
                skipped=len(skipped),
                paused=len(paused),
                duration=clock.monotonic() - started,
            )
        )
        return {row["key"] for row in rows}

    def _tell_of_pauses(self, paused: set[str], others: set[str]) -> None:
        for key in sorted(paused - self._paused):
            logger.info("cron %s: is paused, and makes no jobs until it is resumed", self._keyed[key].name)
        for key in sorted(others & self._paused):
            logger.info("cron %s: is resumed", self._keyed[key].name)
        self._paused = (self._paused | paused) - others

    @staticmethod
    def _counted(rows: Iterable[Any], jobs: Iterable[Mapping[str, Any]]) -> enqueued.Counts:
        """Return how many jobs each queue got; all jobs of a claim have one worker, and hooks may have moved some."""
        counts: enqueued.Counts = {}
        wanted: dict[str, list[tuple[str, str]]] = {}
        for job in jobs:
            wanted.setdefault(job["key"], []).append((job["queue"], job["worker"]))
        for row in rows:
            for key in wanted.get(row["key"], ())[: row["jobs"]]:
                enqueued.merge(counts, {key: 1})
        return counts

    def told(self) -> list[list[Any]]:
        """The entries as dashboards read them: lists of expression, worker and options.

        Oban Web fails for all users at an expression that Elixir can't read, so entries are left out that can't be
        written in another way. It makes a job of an entry from its options alone, so these hold all that its jobs have.
        """
        found: list[list[Any]] = []
        for entry in self.entries:
            if (expression := for_elixir(entry.schedule)) is None:
                logger.info("cron %s: dashboards can't read %r, and are not told of it", entry.name, entry.expression)
                continue
            options, meta = self._options(entry)
            options.pop("unique", None)  # which is nothing to Elixir
            described = {
                **{name: list(value) if name == "tags" else value for name, value in options.items()},
                "args": values.to_json(entry.args, where="args"),
                "meta": values.to_json({**(meta or {}), **entry.meta}, where="meta"),
            }
            found.append([expression, entry.worker, {**described, "name": entry.name, "timezone": entry.timezone}])
        return found

    def _options(self, entry: CronEntry) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """Keywords of an entry's jobs, and the worker's meta."""
        options = {**self._registry.find(entry.worker, self._allow).options.for_job(), **entry.options()}
        return options, options.pop("meta", None)

    def _jobs(self, claim: _Claim) -> list[dict[str, Any]]:
        entry = claim.entry
        options, worker_meta = self._options(entry)
        keys = self._registry.find(entry.worker, self._allow).keys
        rows: list[dict[str, Any]] = []
        for tick in claim.ticks:
            # Made as every job is, so that hooks see these too.
            job = Job(entry.worker, args=dict(entry.args), meta=entry.meta_at(tick, worker_meta), **options)
            if keys is not None:
                self._write_keys(keys, job, entry)
            admit(job)
            row: dict[str, Any] = {
                "key": claim.key,
                "at": _naive(tick),
                "worker": job.worker,
                "queue": job.queue,
                "args": sealed(job.worker, plain(job.args, "args"), job.meta),
                "meta": plain(job.meta, "meta"),
                "tags": job.tags,
                "priority": job.priority,
                "max_attempts": job.max_attempts,
            }
            unique: Unique | None = vars(job).get("_unique")
            if unique is not None:
                subject = unique.subject(job.worker, job.queue, row["args"], row["meta"])
                row |= {"subject": subject, "meta": unique.marked(row["meta"]), **unique.terms}
            rows.append(row)
        return rows

    def _write_keys(self, keys: Keys, job: Job, entry: CronEntry) -> None:
        try:
            keys.write(job)
        except Exception as error:  # of a function of the application
            # A job without its keys is better than none, and than none of all other entries either.
            logger.error("cron %s: its job has no keys: %s", entry.name, describe(error), exc_info=error)

    def _rest(self, seen: _Seen) -> float:
        upcoming = (entry.schedule.next_after(seen.now) for entry in self.entries)
        waits = [(moment - seen.now).total_seconds() for moment in upcoming if moment is not None]
        return max(0.0, min([*waits, _LEADEVERY]) - (clock.monotonic() - seen.at))

    def _key(self, entry: CronEntry) -> str:
        # Two applications that share tables under different instance names may name their entries alike.
        return cron_key(entry.name, self._source.name)


class _Known(NamedTuple):
    """What the database knows of an entry."""

    expression: str
    timezone: str
    worker: str
    opts: Any
    last_at: datetime | None
    defined_at: datetime
    paused: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _Known:
        return cls(
            row["expression"],
            row["timezone"],
            row["worker"],
            args_from_database(row["opts"]),
            None if row["last_at"] is None else _aware(row["last_at"]),
            _aware(row["defined_at"]),
            row["paused"],
        )

    @property
    def dealt_with(self) -> datetime:
        """The moment up to which nothing is left to do: the last tick, or the entry's beginning.

        A last tick at the end of all time was written by another program, and is none.
        """
        return self.defined_at if self.last_at in (None, _NEVER) else max(self.last_at, self.defined_at)


class _Seen(NamedTuple):
    """One look at the database: its clock, read when this machine's was at `at`, and the entries it knows."""

    now: datetime
    at: float
    leads: bool
    missed: Span
    known: Mapping[str, _Known]


class _Claim(NamedTuple):
    """Ticks of an entry, oldest first, that become jobs if its `last_at` still is `seen`; it becomes `until`."""

    key: str
    entry: CronEntry
    seen: datetime | None
    ticks: tuple[datetime, ...]
    until: datetime
    paused: bool

    def row(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.entry.name,
            "seen": None if self.seen is None else _naive(self.seen),
            "until": _naive(self.until),
            "overlap": self.entry.overlap,
        }


def _same(entry: CronEntry, known: _Known | None) -> bool:
    if known is None or known.defined_at in (EVER, _NEVER) or type(known.opts) is not dict:
        return False
    held: dict[str, Any] = known.opts  # pyright: ignore[reportUnknownVariableType]
    opts = {name: value for name, value in held.items() if name != cron.LAST_JOB}
    written = (known.expression, known.timezone, known.worker, opts)
    return written == (entry.expression, entry.timezone, entry.worker, _described(entry))


def _described(entry: CronEntry) -> dict[str, Any]:
    """The column `opts`: what a person who reads the table wants to know beside the other columns."""
    options = {**entry.options(), "args": entry.args, "meta": entry.meta}
    described = {name: list(value) if name == "tags" else value for name, value in options.items() if value != {}}
    if entry.days is not None:
        described["days"] = entry.days
    if not entry.overlap:
        described["overlap"] = False
    if entry.catch_up != "none":
        described["catch_up"] = entry.catch_up
    return described


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
