"""Queues, looked at and steered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from oban_sa import jsontext, messages
from oban_sa.client.transactions import Transactions, Work
from oban_sa.enqueueing import AnySession
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.messages import EVERY
from oban_sa.models import rules
from oban_sa.sql.governing import checking, decided, deciding, elsewhere, gathering
from oban_sa.sql.notifying import notify
from oban_sa.sql.unknown import NOTED, named


@dataclass(frozen=True, slots=True)
class QueueCheck:
    """A queue on a node, as the tables have it.

    `running` are the ids of the jobs it holds; `silent_for` is seconds since its last heartbeat, by the database's
    clock. `limit` is None where a member of the family keeps it elsewhere. `unknown` names the workers whose jobs it
    leaves to other programs, since its own does not know them.
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


@dataclass(frozen=True, slots=True)
class QueuePause:
    """A pause that is in force: of a queue, or of every one as "*", on all nodes or on one `node`."""

    queue: str
    node: str | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A queue from which a node takes jobs that is none of this instance's: another's, or Elixir's.

    `running` are the ids of the jobs that it holds, where it has no row; such a node is seen only while it holds some.
    """

    queue: str
    node: str
    running: tuple[int, ...]


class QueueControl:
    """What can be done about queues, on all nodes of this instance or on one `node`.

    Nodes that listen obey as soon as the transaction commits, others of ours within seconds. That a queue is paused,
    and how many jobs of it run at once, outlives the nodes: it holds for those that start later too, until it is
    changed here again. Which queues a node works on after a restart is what that node is started with.
    """

    name: str
    _transactions: Transactions

    async def pause_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start no more jobs of a queue; those running go on."""
        await self._decide(_name(queue), {"paused": True}, messages.pause, node, session)

    async def resume_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start jobs of a queue again."""
        await self._decide(_name(queue), {"paused": False}, messages.resume, node, session)

    async def pause_all_queues(self, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start no more jobs of any queue, those of later nodes included; those running go on."""
        await self._decide(EVERY, {"paused": True}, messages.pause, node, session)

    async def resume_all_queues(self, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Start jobs of every queue again, of those paused singly too."""
        await self._decide(EVERY, {"paused": False}, messages.resume, node, session)

    async def scale_queue(
        self, queue: str, *, limit: int, node: str | None = None, session: AnySession | None = None
    ) -> None:
        """Let `limit` jobs of a queue run at once on each node; above that, running ones end but are not replaced."""
        limit = _limit(queue, limit)

        def signal(queue: str, *, ident: str) -> dict[str, Any]:
            named = None if ident == messages.ANYONE else ident.removeprefix(f"{self.name}.")
            return messages.scale(queue, limit, ident=ident, node=named)

        await self._decide(_name(queue), {"limit": limit}, signal, node, session)

    async def start_queue(
        self,
        queue: str,
        *,
        limit: int,
        paused: bool = False,
        node: str | None = None,
        session: AnySession | None = None,
    ) -> None:
        """Work on a queue from now on; a node that does so already takes over `limit` and `paused`.

        Without `node` the nodes of other languages start it too, and fail jobs of workers that they don't know.
        """
        limit = _limit(queue, limit)

        def signal(queue: str, *, ident: str) -> dict[str, Any]:
            return messages.start(queue, limit, ident=ident, paused=paused)

        await self._decide(_name(queue), {"limit": limit, "paused": paused}, signal, node, session)

    async def stop_queue(self, queue: str, *, node: str | None = None, session: AnySession | None = None) -> None:
        """Work on a queue no more, once its running jobs have ended."""
        await self._decide(_name(queue), {}, messages.stop, node, session)

    async def check_queues(self) -> list[QueueCheck]:
        """Return every queue of every node of this instance, by node and queue.

        From the tables, so it needs no running node, and shows one that died until its row is removed.
        """

        def work(work: Work) -> list[QueueCheck]:
            return [_check(row) for row in work.execute(checking(), {"name": self.name}).mappings()]

        return await self._transactions.run(work)

    async def check_elsewhere(self) -> list[Elsewhere]:
        """Return which other nodes take jobs from these tables, as far as the tables say it, by queue and node."""

        def work(work: Work) -> list[Elsewhere]:
            rows = work.execute(elsewhere(), {"name": self.name}).all()
            return [Elsewhere(row.queue, row.node, tuple(sorted(row.running or ()))) for row in rows]

        return await self._transactions.run(work)

    async def check_pauses(self) -> list[QueuePause]:
        """Return the pauses in force, also those of queues and nodes that nothing works on now.

        A queue that was resumed after every queue was paused runs, although "*" is still among the answers.
        """

        def work(work: Work) -> list[QueuePause]:
            rows = {row.name: jsontext.read(row.meta) for row in work.execute(decided())}
            return in_force(rows, self.name)

        return await self._transactions.run(work)

    async def _decide(
        self,
        queue: str,
        settings: Mapping[str, bool | int],
        signal: Any,
        node: str | None,
        session: AnySession | None,
    ) -> None:
        if node is not None and not node.strip():
            raise InvalidOption(f"node is a node's name, such as 'web.1', got {node!r}; leave it out for all nodes")
        ident = self.name if node is None else messages.ident(self.name, node)

        def work(work: Work) -> None:
            if settings:
                work.execute(deciding(settings), {"queue": queue, "ident": ident})
            channel = work.channel("signal", always=True)
            if channel is None:
                return
            addressees = self._everyone(work) if node is None else [ident]
            if addressees:
                work.execute(notify(channel, [signal(queue, ident=each) for each in addressees]))

        await self._transactions.run(work, session)

    def _everyone(self, work: Work) -> list[str]:
        """Return what addresses all nodes of this instance and none of another.

        The family has no word for an instance, only for one node and for whoever listens. Nodes of Elixir aren't in the
        tables, so the latter is said for as long as no other instance is known to share these.
        """
        nodes = work.execute(gathering()).all()
        if all(row.name == self.name for row in nodes):
            return [messages.ANYONE]
        return [messages.ident(self.name, row.node) for row in nodes if row.name == self.name]


def _name(queue: Any) -> str:
    if queue == EVERY:
        raise InvalidOption("'*' is no queue; pause_all_queues() and resume_all_queues() mean every one")
    try:
        return rules.name(queue, "queue")
    except InvalidJob as error:
        raise InvalidOption(str(error)) from None


def _limit(queue: Any, limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < 2**31:
        raise InvalidOption(f"the limit of queue {queue!r} is a whole number of at least 1, not {limit!r}")
    return int(limit)


def in_force(decisions: Mapping[str, Any], name: str) -> list[QueuePause]:
    """Return those of an instance's pauses that no later decision has ended; `decisions` are the metas by queue."""
    found: list[QueuePause] = []
    for queue, meta in sorted(decisions.items()):
        for ident in sorted(_table(meta)):
            if ident != name and not ident.startswith(f"{name}."):
                continue
            said, at = _pause(decisions, queue, ident)
            # A later decision about every queue or about all nodes replaces one that is narrower.
            wider = [_pause(decisions, row, who) for row in {queue, EVERY} for who in {ident, name}]
            if said is True and not any(isinstance(other, bool) and later > at for other, later in wider):
                found.append(QueuePause(queue, None if ident == name else ident.removeprefix(f"{name}.")))
    return found


def _pause(decisions: Mapping[str, Any], queue: str, ident: str) -> tuple[bool | None, str]:
    kept = _table(_table(decisions.get(queue)).get(ident))
    at = kept.get("paused_at")
    return kept.get("paused"), at if isinstance(at, str) else ""


def _table(value: Any) -> dict[str, Any]:
    # Whatever somebody may have written by hand.
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _check(row: Mapping[Any, Any]) -> QueueCheck:
    meta: dict[str, Any] = row["meta"]
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
    )
