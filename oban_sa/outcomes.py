"""What a worker may answer: `Cancel`, `Snooze`, `Record`, or anything else, which means that it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from oban_sa import periods, recorded, values
from oban_sa.errors import InvalidArguments
from oban_sa.periods import Period

DEFAULT_LIMIT: Final = 64_000_000


@dataclass(frozen=True, init=False, slots=True)
class Snooze:
    """Run the job again after a while; the attempt is not counted.

    Takes seconds, a timedelta or a text such as "1 minute"; `seconds` is a number, an `int` where it is whole. `meta`
    is merged into the job's own. Raises `InvalidPeriod`, and `InvalidArguments` where `meta` is not a JSON object.
    """

    seconds: int | float
    meta: dict[str, Any] | None = None

    def __init__(self, seconds: Period, meta: dict[str, Any] | None = None) -> None:
        amount = periods.seconds(seconds)
        object.__setattr__(self, "seconds", int(amount) if amount.is_integer() else amount)
        object.__setattr__(self, "meta", None if meta is None else _plain(meta))


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on the job for good; `reason` is kept among its errors."""

    reason: Any


@dataclass(frozen=True, init=False, slots=True)
class Record:
    """Complete the job and keep `value` with it, for `job.recorded()` to read.

    `encoded` is the value as an Erlang term in base64. Raises `ValueError` where that text is longer than `limit`
    or the value has no such form.
    """

    value: Any
    limit: int = DEFAULT_LIMIT
    encoded: str = field(default="", repr=False, compare=False)

    def __init__(self, value: Any, limit: int = DEFAULT_LIMIT) -> None:
        encoded = recorded.encode(value)
        if len(encoded) > limit:
            size = len(encoded)
            raise ValueError(
                f"the recorded value takes {size} bytes, more than its limit of {limit}; "
                f"record less, keep it elsewhere and record where, or raise the limit: Record(value, limit={size})"
            )
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "encoded", encoded)


Result: TypeAlias = Cancel | Snooze | Record | Any | None
"""What `process` returns; anything but the first three completes the job."""


def _plain(meta: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = values.to_json(meta, where="meta")
    if type(plain) is not dict:
        raise InvalidArguments(f"meta is a dict, not {type(meta).__name__}", path="meta")
    if values.has_references(plain):
        raise InvalidArguments("meta of a Snooze can't hold ref(...): nothing is flushed; write the value", path="meta")
    return plain
