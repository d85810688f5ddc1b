"""What a caller asks of a limit outside of jobs, what the database answers, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from oban_sa.client import slot_keeper
from oban_sa.errors import InvalidJob, InvalidOption, LimitLost, LimitReached, shown
from oban_sa.jobs.keys import bounded, key_text
from oban_sa.jobs.limits import MOST_AT_ONCE, Rate, read_rate, whole
from oban_sa.schedule.periods import Period, describe, span


@dataclass(frozen=True, slots=True)
class Limit:
    """What one caller asks for: a slot of the limit `name` and `key`; both texts, `key` empty where it has none."""

    name: str
    key: str
    at_most: int | None
    rate: Rate | None
    wait: float | None
    """Seconds to wait at most; None waits for as long as it takes."""

    @classmethod
    def of(cls, name: object, *, key: object, limit: object, rate: object, wait: Period | None) -> Limit:
        """Check what a caller says; raises `InvalidOption`."""
        if not isinstance(name, str) or not name.strip():
            raise InvalidOption(f"the name of a limit is a text, such as 'stripe', not {shown(name, 60)}")
        read = read_rate(rate)
        if limit is None and read is None:
            raise InvalidOption(
                f"limit {name!r} limits nothing; write limit=4 for so many at once, or rate=Rate(100, per=60)"
            )
        if read is not None and read.weight is not None:
            raise InvalidOption("weight says where a job has how much it counts, and here is no job; leave it out")
        if read is not None and read.shared:
            raise InvalidOption("shared is for queues with partitions; give no key, and all share the limit")
        try:
            text = key_text(key, what="key")
        except InvalidJob as error:
            raise InvalidOption(str(error)) from None
        at_most = None if limit is None else whole(limit, "limit", MOST_AT_ONCE, "limit=4")
        waits = None if wait is None else span(wait, "wait")
        return cls(bounded(name), text or "", at_most, read, waits)

    def __str__(self) -> str:
        return f"limit {self.name!r}" + (f" of {self.key!r}" if self.key else "")

    def parameters(self) -> dict[str, object]:
        """Return the parameters of `take` that are the same for each try."""
        rate = self.rate
        return {
            "of_name": self.name,
            "of_key": self.key,
            "at_most": self.at_most,
            "holds": slot_keeper.HOLDS,
            "n": None if rate is None else rate.n,
            "per": None if rate is None else rate.span,
            "algorithm": None if rate is None else rate.algorithm,
            "burst": None if rate is None else rate.burst,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the database says of a try; see `oban_sa.catalog.functions.slots`."""

    slot: int | None
    granted: bool
    held: int
    ahead: int
    held_for: float | None
    rate_in: float | None

    @classmethod
    def of(cls, row: Sequence[object]) -> Answer:
        """Read a row of `TAKEN`."""
        return cls(*cast("tuple[int | None, bool, int, int, float | None, float | None]", tuple(row)))


def reached(limit: Limit, answer: Answer) -> LimitReached:
    """Make the error of one that got no slot in time."""
    waited = "" if not limit.wait else f" after {describe(limit.wait)}"
    others = f", and others wait before this one: {answer.ahead}" if answer.ahead else ""
    if answer.rate_in is not None or limit.at_most is None:
        free = "" if answer.rate_in is None else f"; the next start is free in {describe(answer.rate_in)}"
        said, full = f"{limit} has spent its rate of {limit.rate}{waited}{others}{free}", "rate"
    else:
        since = "" if answer.held_for is None else f", the first since {describe(answer.held_for)}"
        said = f"{limit} is full{waited}: {answer.held} of {limit.at_most} are held{since}{others}"
        said, full = f"{said}; one is free when a holder ends", "limit"
    return LimitReached(said, name=limit.name, key=limit.key, full=full, retry_in=answer.rate_in)


def lost(limit: Limit) -> LimitLost:
    """Make the error of a block whose slot was lost."""
    return LimitLost(
        f"the slot of {limit} was lost while it was held, as this process or its connection stood still; another may "
        "have it by now",
        name=limit.name,
        key=limit.key,
    )
