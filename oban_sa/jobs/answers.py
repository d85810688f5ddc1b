"""What a worker may answer: `Cancel`, `Snooze`, `Record`, or anything else, which means that it is done."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias, TypeGuard, cast

from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values
from oban_sa.jobs.values import JSONDict
from oban_sa.schedule import periods
from oban_sa.schedule.periods import Period
from oban_sa.wire import erlang

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

RECORDED_LIMIT: Final = 64_000_000
"""Bytes that a recorded value may take at most, unless `Record` is told otherwise."""


class Answer(Exception):
    """An answer with a meaning: a worker returns it, or raises it from wherever it is in its code, which is the same.

    It can't be changed, and is equal to one of the same class and fields.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):  # Python notes on it where it was raised
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


@dataclass(init=False, unsafe_hash=True)
class Snooze(Answer):
    """Run the job again after a while; the attempt is not counted.

    Takes seconds, a timedelta or a text such as "1 minute"; `seconds` is a number, an `int` where it is whole. `meta`
    is merged into the job's own. Raises `InvalidPeriod`, and `InvalidArguments` where `meta` is not a JSON object.
    """

    seconds: int | float
    meta: JSONDict | None = None

    def __init__(self, seconds: Period, meta: JSONDict | None = None) -> None:
        amount = periods.seconds(seconds)
        _set(self, seconds=int(amount) if amount.is_integer() else amount, meta=None if meta is None else _plain(meta))

    def __reduce__(self) -> tuple[object, ...]:
        return Snooze, (self.seconds, self.meta)


@dataclass(init=False, unsafe_hash=True)
class Cancel(Answer):
    """Stop working on the job for good; `reason` is kept among its errors."""

    reason: object

    def __init__(self, reason: object) -> None:
        _set(self, reason=reason)

    def __reduce__(self) -> tuple[object, ...]:
        return Cancel, (self.reason,)


@dataclass(init=False, unsafe_hash=True)
class Record(Answer, Generic[T]):
    """Complete the job and keep `value` with it, for `job.recorded()` to read.

    `Record[list[int]]` says of which type it is: what takes it from another member of a workflow is checked by it.
    `encoded` is the value as an Erlang term in base64. Raises `ValueError` where that text is longer than `limit`
    or the value has no such form.
    """

    value: T
    limit: int = RECORDED_LIMIT
    encoded: str = field(default="", init=False, repr=False, compare=False)

    def __init__(self, value: T, limit: int = RECORDED_LIMIT) -> None:
        encoded = erlang.encode(value)
        if len(encoded) > limit:
            size = len(encoded)
            raise ValueError(
                f"recorded value is {size} bytes, exceeds limit of {limit}; "
                f"record less, keep it elsewhere and record where, or raise the limit: Record(value, limit={size})"
            )
        _set(self, value=value, limit=limit, encoded=encoded)

    def __reduce__(self) -> tuple[object, ...]:
        return Record._again, (self.value, self.limit, self.encoded)

    @classmethod
    def _again(cls, value: T, limit: int, encoded: str) -> Self:
        made: Self = cast("Any", cls).__new__(cls, value)
        _set(made, value=value, limit=limit, encoded=encoded)
        return made


Result: TypeAlias = Cancel | Snooze | Record[T] | T | None
"""What `process` returns: anything but the first three completes the job, and `Result[dict]` says what that may be."""


def raised(answer: Answer) -> Answer:
    """Return an answer that was raised as if it had been returned: it holds on to no frame, and to no other error."""
    answer.__cause__ = answer.__context__ = answer.__traceback__ = None
    return answer


def refuse_unawaited(answer: object) -> None:
    """Raise `TypeError` for an answer that is a coroutine: what it would do is not done, and the job not complete."""
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(
            f"the answer is the coroutine {answer.__qualname__}(), which nothing has awaited, so it did nothing: write "
            '`return await ...` in an `async def`; a `def` that hands it on belongs on the loop: executor="loop"'
        )


def is_error(answer: object) -> TypeGuard[BaseException]:
    """Whether an answer is an error, and none that a worker may raise to say what it would return."""
    return isinstance(answer, BaseException) and not isinstance(answer, Answer)


def _set(answer: Answer, **fields: object) -> None:
    vars(answer).update(fields)


def _plain(meta: JSONDict) -> JSONDict:
    plain: JSONDict = values.to_json(meta, where="meta")
    if type(plain) is not dict:
        raise InvalidArguments(f"meta is a dict, not {type(meta).__name__}", path="meta")
    if values.has_references(plain):
        raise InvalidArguments("meta of a Snooze can't hold ref(...): nothing is flushed; write the value", path="meta")
    return plain
