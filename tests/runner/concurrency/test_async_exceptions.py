"""Threads are interrupted at any moment, with and without trace functions, and nothing is hit but the code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import pytest

from oban_sa.errors import AttemptCancelled, AttemptTimedOut
from oban_sa.runner.concurrency.threads import ThreadCall, Threads

CALLS = 100
"""At least, of each kind of code; each is followed by one that nobody interrupts."""


def ignores(_frame: Any, _event: str, _argument: Any) -> Any:
    """A trace function in Python, and one for profiles: what debuggers and profilers have."""
    return ignores


@pytest.fixture(params=["plain", "traced", "profiled"])
def watched(request: pytest.FixtureRequest) -> Iterator[str]:
    """Threads that are started meanwhile have no trace function, or one, or one for profiles."""
    before = threading.gettrace(), threading.getprofile(), sys.getswitchinterval()
    threading.settrace(ignores if request.param == "traced" else before[0])  # type: ignore[arg-type]
    threading.setprofile(ignores if request.param == "profiled" else before[1])
    sys.setswitchinterval(1e-5)
    yield request.param
    threading.settrace(before[0])  # type: ignore[arg-type]
    threading.setprofile(before[1])
    sys.setswitchinterval(before[2])


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """None is collected in the threads that are struck: an error that is met inside of a `__del__` reaches no code."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def escaped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was raised in threads outside of any call."""
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    return seen


class Striker:
    """Interrupts whatever call it is shown, again and again, at moments that chance chooses."""

    def __init__(self) -> None:
        self.call: ThreadCall | None = None
        self.sent = 0
        self.failures: list[BaseException] = []
        self._over = False
        self._thread = threading.Thread(target=self._strike)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def _strike(self) -> None:
        chance = random.Random(7)
        while not self._over:
            for _ in range(chance.randrange(60)):
                pass
            if (call := self.call) is not None:
                try:
                    call.interrupt(chance.choice([AttemptCancelled, AttemptTimedOut]))
                    self.sent += 1
                except BaseException as error:
                    self.failures.append(error)
            else:
                time.sleep(0)


def computes(calls: list[ThreadCall], turns: int) -> str:
    total = 0
    for n in range(turns):
        total += n
    return "answer"


def cleans_up(calls: list[ThreadCall], turns: int) -> str:
    try:
        return computes(calls, turns)
    finally:
        computes(calls, 5)


def swallows(calls: list[ThreadCall], turns: int) -> str:
    for _ in range(5):
        with contextlib.suppress(AttemptCancelled, AttemptTimedOut):
            computes(calls, turns)
    return "answer"


def waits_in_c(calls: list[ThreadCall], turns: int) -> str:
    time.sleep(turns * 1e-8)
    return "answer"


def waits_on_the_loop(calls: list[ThreadCall], turns: int) -> str:
    return str(calls[-1].on_loop(asyncio.sleep(0, "answer")))


def is_shielded(calls: list[ThreadCall], turns: int) -> str:
    return calls[-1].shielded(partial(computes, calls, turns))


def is_spared(calls: list[ThreadCall], turns: int) -> str:
    computes(calls, turns)
    calls[-1].spare()
    try:
        return computes(calls, turns)
    except BaseException as error:
        raise AssertionError("it was interrupted although it was spared") from error


# A coroutine that was made, and is thrown away because the interruption came just then.
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("code", [computes, cleans_up, swallows, waits_in_c, waits_on_the_loop, is_shielded, is_spared])
async def test_a_call_that_is_interrupted_at_any_moment_ends_with_its_answer_or_the_interruption(
    watched: str, threads: Threads, escaped: list[Any], code: Callable[..., str]
) -> None:
    longest = 50_000 if watched == "plain" else 5_000  # about a millisecond
    chance = random.Random(11)
    outcomes = Counter[str]()
    calls: list[ThreadCall] = []
    with Striker() as striker:
        # A busy machine may give the other thread its first turn only after so many short calls.
        while len(calls) < CALLS or not striker.sent:
            call = ThreadCall(partial(code, calls, chance.randrange(longest)))
            calls.append(call)
            striker.call = call if chance.random() < 0.9 else None
            threads.start(call)
            await asyncio.wait([call.future])
            error = call.future.exception()
            outcomes[type(error).__name__ if error is not None else call.future.result()] += 1
            assert isinstance(error, (AttemptCancelled, AttemptTimedOut, type(None))), error
            assert await threads.call(partial(computes, calls, 20)).future == "answer"
    assert striker.failures == []
    assert escaped == []
    assert sum(outcomes.values()) == len(calls)
    assert set(outcomes) <= {"answer", "AttemptCancelled", "AttemptTimedOut"}
    assert [thread.is_alive() for thread in threads._threads] == [True]
