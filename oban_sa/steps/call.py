"""One call of a step's function: replayed from the journal, or made, again where it may fail, and journalled."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, cast

from oban_sa import telemetry
from oban_sa.describe import callables
from oban_sa.errors import AttemptError, InvalidOption, shown
from oban_sa.jobs.answers import Answer
from oban_sa.schedule import clock, periods
from oban_sa.schedule.periods import Period
from oban_sa.steps import results
from oban_sa.steps.journal import Entry, Journal, name_of, on_loop

Backoff: TypeAlias = Period | Callable[[int], Period] | None
"""How long to wait between calls: always as long, or by how many have failed; None doubles from a second on."""


class Options(NamedTuple):
    """How a step is called."""

    attempts: int = 1
    backoff: Backoff = None
    strict: bool = False

    @classmethod
    def of(cls, attempts: object = 1, backoff: Backoff = None, strict: object = False) -> Options:
        """Check what a user gives; raises `InvalidOption`."""
        if type(attempts) is not int or attempts < 1:
            raise InvalidOption(f"attempts of a step is a number from 1 on, got {shown(attempts)}")
        if type(strict) is not bool:
            raise InvalidOption(f"strict of a step is True or False, got {shown(strict)}")
        if backoff is not None and not callable(backoff):
            periods.span(backoff, "backoff of a step")
        return cls(attempts, backoff, strict)

    def pause(self, failed: int) -> float:
        """Return how many seconds to wait after so many calls have failed."""
        if self.backoff is None:
            return float(min(2 ** (failed - 1), 60))
        return periods.span(self.backoff(failed) if callable(self.backoff) else self.backoff, "backoff of a step")


class Call(NamedTuple):
    """What a step calls."""

    key: str
    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    options: Options

    def check(self) -> None:
        """Refuse a function of the wrong kind for where the code runs; raises `InvalidOption`."""
        name, given = name_of(self.key), cast("object", self.function)  # it may come from anywhere
        if inspect.iscoroutine(given):
            given.close()
            called = given.__name__
            raise InvalidOption(
                f"step({name!r}, ...) calls the function itself, and {called}(...) is called already; "
                f"write step({name!r}, {called}, argument)"
            )
        if not callable(given):
            raise InvalidOption(
                f"step({name!r}, ...) takes a function and its arguments, not {shown(given)}; "
                f"write step({name!r}, function, argument)"
            )
        if callables.yields(self.function):
            raise InvalidOption(f"step {name!r} has one result, and {self.code} yields; write step.each(...)")
        if on_loop():
            if results.is_plain(self.function):
                raise self.blocking()
        elif callables.is_async(self.function):
            raise InvalidOption(
                f"step {name!r} is called by a `def`, and {self.code}() is async; give it a `def`, or make the "
                "worker an `async def`"
            )

    def blocking(self) -> InvalidOption:
        """Return the words for a synchronous function on the loop."""
        name, code = name_of(self.key), self.code
        return InvalidOption(
            f"step {name!r} runs on the loop, which {code}() would block; make it an `async def`, or "
            f"write step({name!r}, asyncio.to_thread, {code}, ...)"
        )

    @property
    def code(self) -> str:
        """The name of the function."""
        return results.code_of(self.function)


async def once(journal: Journal, call: Call) -> object:
    """Return what the journal has of a call, or make it and journal its result."""
    call.check()
    if (entry := await journal.find(call.key, call.code, strict=call.options.strict)) is not None:
        _tell(journal, call, replayed=True)
        return results.read(entry.plain, call.function, call.key)
    await journal.tell()
    started = _tell(journal, call)
    value = await _called(call)
    stored = await journal.write(Entry(call.key, call.code, results.written(value, results.of_step(call.key))))
    ended(journal, call, started)
    return results.read(stored.plain, call.function, call.key)


def _tell(journal: Journal, call: Call, *, replayed: bool = False) -> float:
    started = clock.monotonic()
    journal.emit(telemetry.StepStart, step=call.key, replayed=replayed)
    return started


begun = _tell
"""Tell that a step begins, and return the moment."""


def ended(journal: Journal, call: Call, started: float) -> None:
    """Tell that a step has ended, and is journalled."""
    journal.emit(telemetry.StepStop, step=call.key, duration=clock.monotonic() - started)


async def _called(call: Call) -> object:
    failed = 0
    while True:
        try:
            return await made(call)
        except (Answer, AttemptError):
            raise
        except Exception:
            failed += 1
            if failed >= call.options.attempts:
                raise
        pause = call.options.pause(failed)
        if on_loop():
            await asyncio.sleep(pause)
        else:
            time.sleep(pause)  # noqa: ASYNC251 - in a thread of its own


async def made(call: Call) -> object:
    """Call the function; on the loop, what it returns is awaited."""
    value = call.function(*call.args, **call.kwargs)
    if not inspect.isawaitable(value):
        if on_loop():
            raise call.blocking()
        return value
    if not on_loop():
        if inspect.iscoroutine(value):
            value.close()
        raise InvalidOption(
            f"step {call.key!r} is called by a `def`, and {call.code}() gave an awaitable; give it a `def`"
        )
    return await value
