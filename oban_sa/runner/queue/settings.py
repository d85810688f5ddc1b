"""Carry out what the tables say was decided: queues paused, scaled or limited, jobs cancelled or given to others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from oban_sa.describe.choices import is_whole
from oban_sa.errors import InvalidOption
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.cluster.signals import LARGEST_LIMIT
from oban_sa.runner.database.database import Database
from oban_sa.runner.queue.queues import Queues
from oban_sa.settings.queues import Served
from oban_sa.sql.called_off import called_off
from oban_sa.sql.queues import decisions
from oban_sa.wire import json_text, messages
from oban_sa.wire.messages import EVERY

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits

logger = logging.getLogger("oban_sa.runner")


_OF_NODES: Final = frozenset({"paused", "paused_at", "limit", "limit_at"})
"""What is decided for each node, unlike limits that hold for all nodes together."""

_NEEDS: Final = {"burst": ("by", "each"), "fair": ("by",)}
"""Limits that need others."""


class Decision(NamedTuple):
    """The value of one setting of a queue; `at` is when it was decided, as text that sorts by time."""

    value: Any
    at: str


class Decisions:
    """Reads the decisions every `every` seconds, and carries out those that are new.

    Signals say the same at once. A node that missed one, or that started later, learns it here.
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
        declared: Mapping[str, Served] | None = None,
    ) -> None:
        """`young` knows which attempts were kept young; `declared` are the queues as the settings have them."""
        self._young = Written() if young is None else young
        self._line = database.shared
        self._decided = database.prepare(decisions)
        self._called_off = database.prepare(called_off)
        self._queues = queues
        self._name = name
        self._node = node
        self._every = every
        self._known: dict[tuple[str, str], str] = {}
        self._declared = declared or {}
        self._told: set[tuple[str, str, str]] = set()
        queues.before_start = self.tick

    async def tick(self) -> float:
        """Carry out what is new; returns the seconds until the next tick."""
        rows = await self._line.fetch(self._decided)
        metas = {row["name"]: _object(row["meta"]) for row in rows}
        for queue in list(self._queues.serving):
            for setting in ("paused", "limit"):
                decision = latest(metas, queue, setting, name=self._name, node=self._node)
                if decision is not None and self._known.get((queue, setting), "") < decision.at:
                    self._known[queue, setting] = decision.at
                    self._carry_out(queue, setting, decision.value)
            self._queues.limit(queue, self._limits(queue, metas))
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
            # By the time the answer is here, the attempt may have ended and another one at the job begun.
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
        elif is_whole(value, 1, LARGEST_LIMIT):
            self._queues.scale(queue, value)

    def _limits(self, queue: str, metas: Mapping[str, Mapping[str, Any]]) -> Limits | None:
        """Return the limits of a queue: as the settings have them, but for what was decided."""
        declared = self._declared.get(queue, 1)
        kept = [_settings(metas.get(row, {}).get(self._name)) for row in (EVERY, queue)]
        if all(each.keys() <= _OF_NODES for each in kept):
            return None if isinstance(declared, int) else declared.limits
        from oban_sa.jobs.limits import AS_DECLARED, SETTINGS, Queue, idle, setting_from_json

        decided: dict[str, object] = {}
        for setting in SETTINGS:
            decision = latest(metas, queue, setting, name=self._name, node=self._node)
            if decision is None or decision.value == AS_DECLARED:
                continue
            try:
                decided[setting] = setting_from_json(setting, decision.value)
            except InvalidOption as error:
                self._tell("the table oban_sa_queues has no usable %s of the queue %s: %s", setting, queue, error)
        base = Queue(1) if isinstance(declared, int) else declared
        for setting, why in idle(base, decided).items():
            # Where what it needs was taken away at run time people know it, and `fair` alone is on by default.
            taken = any(decided.get(needed, True) is None for needed in _NEEDS[setting])
            if not taken and (setting, decided[setting]) != ("fair", True):
                self._tell("the %s that was decided for the queue %s has no effect: %s", setting, queue, why)
        return base.decided(decided).limits

    def _tell(self, text: str, setting: str, queue: str, why: object) -> None:
        told = (queue, setting, str(why))
        if told not in self._told:
            self._told.add(told)
            logger.warning(text, setting, queue, why)


def latest(
    metas: Mapping[str, Mapping[str, Any]], queue: str, setting: str, *, name: str, node: str
) -> Decision | None:
    """Return what was decided last about a queue: for it or for every queue, on all nodes or on this one; or None.

    `metas` are the rows of `oban_sa_queues` by name, each with the settings of nodes by ident.
    """
    found: list[Decision] = []
    for row in (EVERY, queue):
        for ident in (name, messages.ident(name, node)):
            kept = _settings(metas.get(row, {}).get(ident))
            if setting in kept:
                at = kept.get(f"{setting}_at", "")
                found.append(Decision(kept[setting], at if isinstance(at, str) else ""))
    # Of two decisions of one moment the narrower one counts.
    return max(reversed(found), key=lambda decision: decision.at, default=None)


def _object(text: str | None) -> dict[str, Any]:
    return _settings(json_text.read(text) if text else None)


def _settings(value: Any) -> dict[str, Any]:
    # Written by hand, a row may hold any JSON.
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
