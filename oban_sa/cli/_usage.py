"""How much of the limits of queues is used, and which sequences are halted, for `queues list` and `status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oban_sa.cli._output import say
from oban_sa.client import HaltedSequence, LimitUse, Oban
from oban_sa.client.usage import not_observed
from oban_sa.describe.spans import count
from oban_sa.jobs.limits import Rate

SHOWN: Final = 5
"""Full partitions of a queue, and halted sequences, that are named."""

COUNTED: Final = 1_000
"""Jobs behind a halted sequence that are counted, at most."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The limits of queues at one moment, and the sequences that halted first: one more than is shown, if there are."""

    limits: list[LimitUse]
    halted: list[HaltedSequence]

    @classmethod
    async def read(cls, oban: Oban, *, dead_after: float) -> Usage:
        """Read the tables; a node that is silent for `dead_after` seconds is left out."""
        return cls(
            await oban.check_limits(dead_after=dead_after),
            await oban.list_halted_sequences(limit=SHOWN + 1, exactly_to=COUNTED),
        )

    def as_json(self) -> dict[str, object]:
        """Return `limits`, `halted`, and `warnings` about limits that do not hold."""
        return {
            "limits": [_as_json(each) for each in self.limits],
            "halted": [halted_as_json(each) for each in self.halted[:SHOWN]],
            "warnings": not_observed(self.limits),
        }

    def show(self) -> None:
        """Print how much of limits is used, and warnings."""
        for use in self.limits:
            if parts := [*_in_cluster(use), *_of_rate(use)]:
                say(f"Of the queue {use.queue} {'; '.join(parts)}.")
            if use.full:
                say(_full(use))
        for warning in not_observed(self.limits):
            say(f"Warning: {warning}")

    def show_halted(self) -> None:
        """Print which sequences are halted."""
        for each in self.halted[:SHOWN]:
            say(
                f"The sequence {each.key} of the queue {each.queue} is halted: job {each.job_id} was discarded, and "
                f"{_most(each.waiting, COUNTED)} behind it; `jobs retry {each.job_id}` or "
                f"`sequences resume {each.queue} {each.key}`."
            )
        if len(self.halted) > SHOWN:
            say("More sequences are halted; `sequences list` shows all.")


def halted_as_json(each: HaltedSequence) -> dict[str, object]:
    """Return a halted sequence as JSON."""
    return {
        "queue": each.queue,
        "key": each.key,
        "job": each.job_id,
        "worker": each.worker,
        "discarded_at": each.discarded_at,
        "waiting": each.waiting,
    }


def _as_json(use: LimitUse) -> dict[str, object]:
    return {
        "queue": use.queue,
        "limits": use.limits.as_json(),
        "nodes": list(use.nodes),
        "executing": use.executing,
        "left": use.left,
        "until": use.until,
        "full": [{"key": each.key, "executing": each.executing, "waiting": each.waiting} for each in use.full],
        "full_count": use.full_count,
        "foreign": list(use.foreign),
    }


def _in_cluster(use: LimitUse) -> list[str]:
    most = use.limits.global_limit
    return [] if most is None else [f"{use.executing:,} of {most:,} jobs execute in the cluster"]


def _of_rate(use: LimitUse) -> list[str]:
    rate = use.limits.rate
    if not isinstance(rate, Rate) or use.left is None:
        return []
    if use.until is not None:
        return [f"the rate is spent until {use.until:%Y-%m-%d %H:%M:%S} UTC"]
    return [f"{count(use.left, 'start')} of {rate.n:,} are left of the rate"]


def _full(use: LimitUse) -> str:
    named = [f"{each.key} ({_most(each.waiting, 1_000)})" for each in use.full[:SHOWN]]
    more = use.full_count - len(named)
    named += [f"{more:,} others"] if more else []
    number = "1 partition is" if use.full_count == 1 else f"{use.full_count:,} partitions are"
    return f"Of the queue {use.queue} {number} full, {use.limits.each} of each: {', '.join(named)}."


def _most(number: int, counted: int) -> str:
    waits = "waits" if number == 1 else "wait"
    return f"{'at least ' if number >= counted else ''}{number:,} {waits}"
