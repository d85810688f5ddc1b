"""Waiting without a slot: `sleep` and `wait_for` end the attempt, and another one goes on after them."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from oban_sa import telemetry
from oban_sa.errors import InvalidOption, Suspended
from oban_sa.jobs.durable import waiting
from oban_sa.schedule.periods import Period, describe, span
from oban_sa.steps.here import here, journal
from oban_sa.steps.journal import Entry, Journal


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that a job has received: what was sent with it, and when, by the database's clock."""

    name: str
    payload: object
    sent_at: datetime


def sleep(name: str, period: Period) -> Coroutine[object, object, None]:
    """Go on after a span of time, without a slot meanwhile.

        await sleep("cool down", "2 days")

    The attempt ends here, and is not counted; what its session has not committed is rolled back. Another one begins
    when the time is over, from the database's now on, also where no node lived by then, and comes past this line. The
    name is that of a step. Raises what `step` raises, and `InvalidPeriod`.
    """
    at = journal("sleep()")
    key, pause = at.key(name), span(period, f"sleep({name!r}, ...)")
    made = here(at, f"sleep({name!r}, ...)", lambda: _sleep(at, key, pause))
    return cast("Coroutine[object, object, None]", made)


def wait_for(name: str, *, within: Period | None = None) -> Coroutine[object, object, Signal | None]:
    """Return the next signal of a name, and wait for one without a slot; None where it did not come `within` a time.

        answer = await wait_for("approval", within="1 day")

    Signals that were sent before are taken at once, the oldest first, and each by one wait. Where there is none, the
    attempt ends as with `sleep`, and another one begins once the signal is committed. What was received is journalled,
    and so is that the time was up: counted from the first attempt that came here. Without `within` the job waits for
    good. Raises what `step` raises, and `InvalidPeriod`.
    """
    at = journal("wait_for()")
    key, pause = at.key(name), None if within is None else span(within, f"within of wait_for({name!r}, ...)")
    made = here(at, f"wait_for({name!r}, ...)", lambda: _wait_for(at, key, name, pause))
    return cast("Coroutine[object, object, Signal | None]", made)


async def _sleep(at: Journal, key: str, pause: float) -> None:
    entry = await at.find(key, "sleep")
    if entry is None:
        entry = await at.write(Entry(key, "sleep"), delay=pause)
    if entry.left is not None and entry.left > 0:
        await at.tell()
        raise Suspended(f"sleeps for {describe(entry.left)}", delay=entry.left, meta=waiting(until=entry.ms))


async def _wait_for(at: Journal, key: str, name: str, within: float | None) -> Signal | None:
    entry = await at.find(key, "wait_for")
    if entry is None or not entry.done:
        entry = await at.wait(at.tables.wait(key, name, within=within))
        at.add(entry)
        if not entry.done:
            await at.tell()
            left = None if entry.left is None else max(entry.left, 0.0)
            raise Suspended(f"waits for {name}", delay=left, meta=waiting(until=entry.ms, signal=name))
        at.emit(telemetry.SignalReceived, signal=name, timed_out=entry.value is None)
    return _signal(name, entry)


def _signal(name: str, entry: Entry) -> Signal | None:
    found = entry.plain
    if found is None:
        return None
    if not isinstance(found, dict) or "sent_at" not in found:  # as a test may give it
        raise InvalidOption(
            f"what wait_for({name!r}, ...) returns is no result of a step; write signals={{{name!r}: ...}} in place of "
            f"journal={{{name!r}: ...}}, or give it None there for a time that is up"
        )
    sent = cast("dict[str, object]", found)
    return Signal(name, sent["payload"], datetime.fromisoformat(str(sent["sent_at"])).replace(tzinfo=UTC))
