"""What was decided in the tables, for nodes that start later and for those that did not hear of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from oban_sa import jsontext, messages
from oban_sa.messages import EVERY
from oban_sa.runner.database import Database
from oban_sa.runner.queues import Queues
from oban_sa.runner.young import Written
from oban_sa.sql.governing import decided
from oban_sa.sql.steering import called_off

logger = logging.getLogger("oban_sa.runner")

LARGEST_LIMIT: Final = 2**31 - 1
"""Jobs at once; a larger limit is none that `scale_queue` takes, so a stranger wrote it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The latest word on one setting of a queue; `at` is when, as text that sorts by time."""

    value: Any
    at: str


class Decisions:
    """Reads now and then what was decided, and what of it is new is carried out.

    Notifications are the shortcut: whoever misses one still learns within `every` seconds that a queue is paused or
    scaled, and that a job it runs was cancelled or given to others.
    """

    def __init__(
        self,
        database: Database,
        queues: Queues,
        *,
        name: str,
        node: str,
        every: float,
        young: Written | None = None,
    ) -> None:
        """`young` knows which attempts were kept young."""
        self._young = Written() if young is None else young
        self._line = database.house
        self._decided = database.prepare(decided)
        self._called_off = database.prepare(called_off)
        self._queues = queues
        self._name = name
        self._node = node
        self._every = every
        self._known: dict[tuple[str, str], str] = {}

    async def tick(self) -> float:
        """Carry out what is new."""
        rows = await self._line.fetch(self._decided)
        metas = {row["name"]: _object(row["meta"]) for row in rows}
        for queue in list(self._queues.serving):
            for setting in ("paused", "limit"):
                decision = latest(metas, queue, setting, name=self._name, node=self._node)
                if decision is not None and self._known.get((queue, setting), "") < decision.at:
                    self._known[queue, setting] = decision.at
                    self._carry_out(queue, setting, decision.value)
        await self._call_off()
        return self._every

    async def _call_off(self) -> None:
        asked = {
            job_id: (running, str(producer.uuid))
            for producer in self._queues.all
            for job_id, running in producer.running.items()
        }
        if not asked:
            return
        rows = await self._line.fetch(
            self._called_off,
            ids=list(asked),
            attempts=[running.attempt.attempt for running, _ in asked.values()],
            uuids=[uuid for _, uuid in asked.values()],
        )
        for row in rows:
            # By the time the answer is here, the job may have ended and been begun again.
            if row["lost"]:
                self._queues.lose(row["id"], asked[row["id"]][0])
            else:
                began_at = self._young.began_at(row["id"], row["attempted_at"])
                self._queues.cancel(row["id"], attempted_at=began_at)
        self._young.forget(but=self._queues.unwritten)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    def _carry_out(self, queue: str, setting: str, value: Any) -> None:
        if setting == "paused":
            (self._queues.pause if value is True else self._queues.resume)(queue)
        elif isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_LIMIT:
            self._queues.scale(queue, value)


def latest(
    metas: Mapping[str, Mapping[str, Any]], queue: str, setting: str, *, name: str, node: str
) -> Decision | None:
    """Return what was decided last about a queue: for it or for every queue, on all nodes or on this one."""
    found: list[Decision] = []
    for row in (EVERY, queue):
        for ident in (name, messages.ident(name, node)):
            kept = _settings(metas.get(row, {}).get(ident))
            if setting in kept:
                at = kept.get(f"{setting}_at", "")
                found.append(Decision(kept[setting], at if isinstance(at, str) else ""))
    # Of two decisions of one moment the narrower one holds.
    return max(reversed(found), key=lambda decision: decision.at, default=None)


def _object(text: str | None) -> dict[str, Any]:
    return _settings(jsontext.read(text) if text else None)


def _settings(value: Any) -> dict[str, Any]:
    # Whatever somebody may have written by hand.
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
