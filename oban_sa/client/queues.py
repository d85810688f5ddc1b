"""What `Oban` does with queues: pause, resume, scale, start, stop and check them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol, cast
from uuid import UUID

from sqlalchemy import RowMapping

from oban_sa.client.transactions import Transactions, Work
from oban_sa.describe.choices import is_whole
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs import values
from oban_sa.models import validation
from oban_sa.outbox.sessions import AnySession
from oban_sa.sql.notify import notify
from oban_sa.sql.producers import LIMITS
from oban_sa.sql.queues import check, decide, decide_as_json, decided, decisions, elsewhere, nodes, observed
from oban_sa.sql.unknown_workers import NOTED, named
from oban_sa.wire import json_text, messages
from oban_sa.wire.messages import EVERY, Message

if TYPE_CHECKING:  # most programs set no limits
    from typing import Unpack

    from oban_sa.jobs.limits import Limits, QueueLimits


@dataclass(frozen=True, slots=True)
class QueueCheck:
    """A queue on a node, as the tables have it.

    `running` are the ids of its executing jobs; `silent_for` is seconds since its last heartbeat, by the database's
    clock. `limit` is None where another member of the Oban family stores it elsewhere. `unknown` names the workers that
    its program doesn't know and whose jobs it leaves to others. `limits` are those that the node observes with all
    others, None where there are none.
    """

    queue: str
    node: str
    uuid: UUID
    limit: int | None
    paused: bool
    running: tuple[int, ...]
    started_at: datetime
    silent_for: float
    unknown: tuple[str, ...] = ()
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class QueuePause:
    """A pause in force: of a queue, or of every queue ("*"), on one `node`, or on all nodes (None)."""

    queue: str
    node: str | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A queue on a node of another instance, or of another program such as Oban for Elixir.

    `running` are the ids of its executing jobs, for a node without a row in `oban_producers`; such a node is seen only
    while it executes some.
    """

    queue: str
    node: str
    running: tuple[int, ...]


_OF_PARTITIONS: Final = ("burst", "fair")
"""Limits that have no effect on a queue without partitions."""

_LATELY: Final = 30.0
"""Seconds without a heartbeat after which a node is not asked for its limits."""

_HEARD_AFTER: Final = timedelta(seconds=10)
"""How long after limits were reset the rows of nodes may still tell of those before."""


class _Signal(Protocol):
    """Makes the message about a queue for the nodes of an ident."""

    def __call__(self, queue: str, *, ident: str) -> Message: ...


class QueueControl:
    """Methods on queues, on all nodes of this instance or one `node`, in a transaction of their own or a `session`'s.
    Nodes that listen obey as soon as the transaction commits, other nodes of oban_sa within seconds. Pauses and limits
    outlive the nodes: they count for nodes that start later too, until they are changed here again. Which queues a node
    works on after a restart is decided by its own options. Raises `InvalidOption` for names and limits that can't be.
    """

    name: str
    _transactions: Transactions

    async def pause_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start no more jobs of a queue; those running go on."""
        await self._decide(queue_named(queue), {"paused": True}, messages.pause, node, session)

    async def resume_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start jobs of a queue again."""
        await self._decide(queue_named(queue), {"paused": False}, messages.resume, node, session)

    async def pause_all_queues(self, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start no more jobs of any queue, those of later nodes included; those running go on."""
        await self._decide(EVERY, {"paused": True}, messages.pause, node, session)

    async def resume_all_queues(self, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start jobs of every queue again, also of those that were paused one by one."""
        await self._decide(EVERY, {"paused": False}, messages.resume, node, session)

    async def scale_queue(
        self, queue: str, *, limit: int, node: str | None = None, session: AnySession | None = None
    ) -> None:
        """Let `limit` jobs of a queue run at once on each node; running ones above that end and are not replaced."""
        limit = _limit(queue, limit)

        def signal(queue: str, *, ident: str) -> Message:
            named = None if ident == messages.ANYONE else ident.removeprefix(f"{self.name}.")
            return messages.scale(queue, limit, ident=ident, node=named)

        await self._decide(queue_named(queue), {"limit": limit}, signal, node, session)

    async def start_queue(
        self,
        queue: str,
        *,
        limit: int,
        paused: bool = False,
        node: str | None = None,
        session: AnySession | None = None,
        **limits: Unpack[QueueLimits],
    ) -> None:
        """Start working on a queue; a node that works on it already changes to `limit` and `paused`.

        `limits` are those of `limit_queue`, which hold for all nodes together, and before the first job is fetched.
        Without `node` nodes of Oban for Elixir start it too, and fail jobs of workers that they don't know.
        """
        limit = _limit(queue, limit)
        within = _limits(limits) if limits else {}

        def signal(queue: str, *, ident: str) -> Message:
            return messages.start(queue, limit, ident=ident, paused=paused)

        await self._decide(queue_named(queue), {"limit": limit, "paused": paused}, signal, node, session, within)

    async def stop_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Stop working on a queue, once its running jobs have ended."""
        await self._decide(queue_named(queue), {}, messages.stop, node, session)

    async def limit_queue(
        self, queue: str, *, session: AnySession | None = None, **limits: Unpack[QueueLimits]
    ) -> None:
        """Set limits of a queue, those of `Queue`, that hold for all nodes together; None takes one away.

            await oban.limit_queue("calls", global_limit=30, each=None, rate=Rate(10, per=1))

        They come before what the nodes' settings say; limits that are not named stay as they are. `each` makes
        partitions of a queue that has none. Jobs that run go on. Raises `InvalidOption` for what can't be meant, and
        for `burst` and `fair` where what was decided and what living nodes observe shows that they'd have no effect.
        """
        await self._limit(queue_named(queue), _limits(limits), session)

    async def reset_queue_limits(self, queue: str, *, session: AnySession | None = None) -> None:
        """Set the limits of a queue that hold for all nodes together to what each node's own settings say."""
        from oban_sa.jobs.limits import AS_DECLARED, SETTINGS

        await self._limit(queue_named(queue), dict.fromkeys(SETTINGS, values.dumps(AS_DECLARED)), session)

    async def check_queues(self) -> list[QueueCheck]:
        """Return every queue of every node of this instance, by node and queue.

        It reads the tables, so it needs no running node, and shows a dead one until its row is removed.
        """

        def work(work: Work) -> list[QueueCheck]:
            return [_check(row) for row in work.execute(check(), {"name": self.name}).mappings()]

        return await self._transactions.run(work)

    async def check_elsewhere(self) -> list[Elsewhere]:
        """Return the queues of other instances and programs, as far as the tables show them, by queue and node."""

        def work(work: Work) -> list[Elsewhere]:
            rows = work.execute(elsewhere(), {"name": self.name}).all()
            return [Elsewhere(row.queue, row.node, tuple(sorted(row.running or ()))) for row in rows]

        return await self._transactions.run(work)

    async def check_pauses(self) -> list[QueuePause]:
        """Return the pauses in force, also of queues and nodes that are not running now.

        A queue that was resumed after every queue was paused runs, although "*" is still in the result.
        """

        def work(work: Work) -> list[QueuePause]:
            rows = {row.name: json_text.read(row.meta) for row in work.execute(decisions())}
            return in_force(rows, self.name)

        return await self._transactions.run(work)

    async def _decide(
        self,
        queue: str,
        settings: Mapping[str, bool | int],
        signal: _Signal,
        node: str | None,
        session: AnySession | None,
        limits: Mapping[str, str] | None = None,
    ) -> None:
        """Keep `settings`, and `limits` as JSON by name, and have the nodes told."""
        if node is not None and not node.strip():
            raise InvalidOption(f"node is a node's name, such as 'web.1', got {node!r}; leave it out for all nodes")
        ident = self.name if node is None else messages.ident(self.name, node)

        def work(work: Work) -> None:
            if settings:
                work.execute(decide(settings), {"queue": queue, "ident": ident})
            if limits:
                self._keep_limits(work, queue, limits, starts=True)
            channel = work.channel("signal", always=True)
            if channel is None:
                return
            addressees = self._idents(work) if node is None else [ident]
            if addressees:
                work.execute(notify(channel, [signal(queue, ident=each) for each in addressees]))

        await self._transactions.run(work, session)

    async def _limit(self, queue: str, limits: Mapping[str, str], session: AnySession | None) -> None:
        await self._transactions.run(lambda work: self._keep_limits(work, queue, limits), session)

    def _keep_limits(self, work: Work, queue: str, limits: Mapping[str, str], *, starts: bool = False) -> None:
        if not limits.keys().isdisjoint(_OF_PARTITIONS):
            self._refuse_idle(work, queue, limits, starts=starts)
        work.execute(decide_as_json(limits), {"queue": queue, "ident": self.name, **limits})
        channel = work.channel(messages.NODES, always=True)
        if channel is not None:
            work.execute(notify(channel, [messages.limited(queue, self.name)]))

    def _refuse_idle(self, work: Work, queue: str, limits: Mapping[str, str], *, starts: bool) -> None:
        """Raise `InvalidOption` for limits that would have no effect on any node; nothing where no node is known."""
        from oban_sa.jobs.limits import AS_DECLARED, SETTINGS, Queue, idle, setting_from_json

        given = {name: json_text.read(value) for name, value in limits.items()}
        if given.get("fair") is True and "by" in given:  # all limits are taken away, or there are partitions
            del given["fair"]
        if all(given.get(name, AS_DECLARED) in (AS_DECLARED, False) for name in _OF_PARTITIONS):
            return
        kept: dict[str, object] = {}
        for row in work.execute(decided(), {"queue": queue, "ident": self.name}):
            kept = _table(json_text.read(row.kept or "{}"))
            lately = (row.now - _HEARD_AFTER).isoformat()
            if any(kept.get(name) == AS_DECLARED and str(kept.get(f"{name}_at")) > lately for name in ("by", "each")):
                return
        known = {name: value for name, value in {**kept, **given}.items() if name in SETTINGS and value != AS_DECLARED}
        try:
            now = {name: setting_from_json(name, value) for name, value in known.items()}
        except InvalidOption:  # kept by a later version, or written by hand: nodes say so
            return
        rows = work.execute(observed(), {"name": self.name, "queue": queue, "lately": _LATELY}).scalars().all()
        nodes = [limits_of(each) for each in rows] or ([None] if starts else [])
        found = [idle(Queue(1) if each is None else each.queue(), now) for each in nodes]
        for name in _OF_PARTITIONS:
            if name in given and found and all(name in each for each in found):
                raise InvalidOption(f"queue {queue!r}: {found[0][name]}")

    def _idents(self, work: Work) -> list[str]:
        """Return the idents that address all nodes of this instance and none of another.

        The signals of the Oban family can address one node or all that listen ("any"), and no instance. Nodes of Oban
        for Elixir aren't in the tables, so "any" is used unless the tables show another instance.
        """
        rows = work.execute(nodes()).all()
        if all(row.name == self.name for row in rows):
            return [messages.ANYONE]
        return [messages.ident(self.name, row.node) for row in rows if row.name == self.name]


def queue_named(queue: object) -> str:
    """Accept the name of one queue; raises `InvalidOption`."""
    if queue == EVERY:
        raise InvalidOption("'*' is no queue; pause_all_queues() and resume_all_queues() mean every one")
    try:
        return validation.name(queue, "queue")
    except InvalidJob as error:
        raise InvalidOption(str(error)) from None


def _limit(queue: object, limit: object) -> int:
    if not is_whole(limit, 1, 2**31 - 1):
        raise InvalidOption(f"the limit of queue {queue!r} is a whole number of at least 1, not {limit!r}")
    return int(limit)


def _limits(given: QueueLimits) -> dict[str, str]:
    """Return limits as JSON by name."""
    from oban_sa.jobs.limits import decisions_as_json

    return {name: values.dumps(value) for name, value in decisions_as_json(cast("dict[str, object]", given)).items()}


def in_force(decisions: Mapping[str, object], name: str) -> list[QueuePause]:
    """Return an instance's pauses that no later decision has ended, from the metas of `oban_sa_queues` by queue."""
    found: list[QueuePause] = []
    for queue, meta in sorted(decisions.items()):
        for ident in sorted(_table(meta)):
            if ident != name and not ident.startswith(f"{name}."):
                continue
            paused, at = _pause(decisions, queue, ident)
            # A later decision about every queue or about all nodes replaces one that is narrower.
            wider = [_pause(decisions, row, who) for row in {queue, EVERY} for who in {ident, name}]
            if paused is True and not any(isinstance(other, bool) and later > at for other, later in wider):
                found.append(QueuePause(queue, None if ident == name else ident.removeprefix(f"{name}.")))
    return found


def _pause(decisions: Mapping[str, object], queue: str, ident: str) -> tuple[object, str]:
    kept = _table(_table(decisions.get(queue)).get(ident))
    at = kept.get("paused_at")
    return kept.get("paused"), at if isinstance(at, str) else ""


def _table(value: object) -> dict[str, object]:
    # The row may have been written by hand, with any JSON in it.
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _check(row: RowMapping) -> QueueCheck:
    meta: dict[str, object] = row["meta"]
    limit = meta.get("local_limit", meta.get("limit"))
    return QueueCheck(
        queue=row["queue"],
        node=row["node"],
        uuid=row["uuid"],
        limit=limit if isinstance(limit, int) else None,
        paused=meta.get("paused") is True,
        running=tuple(sorted(row["running"] or ())),
        started_at=row["started_at"],
        silent_for=max(row["silent_for"], 0.0),
        unknown=tuple(named(meta.get(NOTED))),
        limits=limits_of(meta.get(LIMITS)),
    )


def limits_of(noted: object) -> Limits | None:
    """Return the limits that a producer's row tells of; None for none, and for what can't be read."""
    if not isinstance(noted, dict):
        return None
    from oban_sa.jobs.limits import Limits

    try:
        return Limits.from_json(cast("dict[str, object]", noted))
    except InvalidOption:  # of a later version, or written by hand
        return None
