"""Workers that take durable steps in processes of their own, which import this module.

What they have done stands in a file, a line for each thing, since nothing else of a process outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from oban_sa import Record, Snooze, current_job, job, progress, sleep, step, wait_for
from oban_sa.errors import AttemptLost, StepChanged, Suspended
from oban_sa.workers import Registry

registry = Registry()

STEPS = 10


def no_wait(_: object) -> int:
    return 0


def note(path: str, line: object) -> None:
    """Leave a line."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def lines(path: str) -> list[str]:
    """What was left."""
    return Path(path).read_text().split("\n")[:-1] if Path(path).exists() else []


def fails_first(times: int = 1) -> None:
    if current_job().attempt <= times:
        raise RuntimeError("not yet")


def die() -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def wait_until_there(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


@dataclass
class Paid:
    order: int
    cents: int


def charge(path: str, order: int, *, cents: int) -> Paid:
    note(path, "charge")
    return Paid(order, cents)


async def charge_async(path: str, order: int, *, cents: int) -> Paid:
    await asyncio.sleep(0)
    return charge(path, order, cents=cents)


@job(registry=registry, executor="process", backoff=no_wait)
def pays(path: str) -> None:
    note(path, step("charge", charge, path, 7, cents=300))
    fails_first(2)


@job(registry=registry, executor="process", backoff=no_wait)
async def pays_on_a_loop(path: str) -> None:
    note(path, await step("charge", charge_async, path, 7, cents=300))
    fails_first(2)


def effect(path: str, number: int, *, dies: bool) -> int:
    note(path, f"{current_job().id} {number}")
    if dies:
        die()
    return number


async def effect_async(path: str, number: int, *, dies: bool) -> int:
    return effect(path, number, dies=dies)


@job(registry=registry, executor="process", max_attempts=5, backoff=no_wait)
def ten_steps(path: str, after: int | None, inside: int | None) -> None:
    """Take the steps, and kill the process once: after one of them, or inside of one."""
    first = current_job().attempt == 1
    if first and after == 0:
        die()
    for number in range(1, STEPS + 1):
        got = step(f"step {number}", effect, path, number, dies=first and inside == number)
        assert got == number
        if first and after == number:
            die()


@job(registry=registry, executor="process", max_attempts=5, backoff=no_wait)
async def ten_steps_on_a_loop(path: str, after: int | None, inside: int | None) -> None:
    """Do the same on a loop."""
    first = current_job().attempt == 1
    if first and after == 0:
        die()
    for number in range(1, STEPS + 1):
        got = await step(f"step {number}", effect_async, path, number, dies=first and inside == number)
        assert got == number
        if first and after == number:
            die()


async def ship(path: str, item: str, delay: float) -> str:
    note(path, item)
    await asyncio.sleep(delay)
    return f"shipped {item}"


@job(registry=registry, executor="process", backoff=no_wait)
async def ships_side_by_side(path: str) -> Record:
    first = current_job().attempt == 1
    shipped = await asyncio.gather(
        step("ship", ship, path, "a", 0.05 if first else 0.0), step("ship", ship, path, "b", 0.0 if first else 0.05)
    )
    fails_first()
    return Record(shipped)


@job(registry=registry, executor="process", backoff=no_wait)
def retries_in_place(path: str) -> None:
    def flaky() -> int:
        note(path, "flaky")
        if len(lines(path)) <= 4:
            raise ConnectionError("away")
        return len(lines(path))

    step("flaky", flaky, attempts=3, backoff=0.001)


@job(registry=registry, executor="process", max_attempts=1)
def gives_no_json() -> None:
    step("lookup", object)


def rows(after: object) -> Iterator[int]:
    yield from range(int(str(after)) + 1 if after is not None else 0, 6)


async def rows_async(after: object) -> AsyncIterator[int]:
    for row in rows(after):
        yield row


def stops_at(path: str, row: int) -> None:
    if (row, current_job().attempt) in ((2, 1), (4, 2)):
        if row == 2:
            die()
        raise RuntimeError
    note(path, row)


@job(registry=registry, executor="process", backoff=no_wait)
def goes_through(path: str) -> None:
    for row in step.each("rows", rows(after=step.cursor("rows"))):
        stops_at(path, row)
    fails_first(3)


@job(registry=registry, executor="process", backoff=no_wait)
async def goes_through_on_a_loop(path: str) -> None:
    async for row in step.each("rows", rows_async(after=step.cursor("rows"))):
        stops_at(path, row)
    fails_first(3)


@job(registry=registry, executor="process", backoff=no_wait)
def old_then_new(path: str) -> None:
    step("one", int, 1)
    fails_first()
    note(path, step.version("v2"))
    fails_first(2)


@job(registry=registry, executor="process", backoff=no_wait)
def new_code(path: str) -> None:
    note(path, step.version("v2"))
    step("one", int, 1)
    fails_first()


@job(registry=registry, executor="process", backoff=no_wait, max_attempts=3)
def changes() -> object:
    attempt = current_job().attempt
    try:
        got = step("count", int if attempt == 1 else float, 7, strict=attempt == 3)
    except StepChanged as error:
        return Record(str(error))
    raise RuntimeError(got)


@job(registry=registry, executor="process")
def is_given_back(path: str, how: str) -> object:
    step("charge", note, path, "charge")
    note(path, "run")
    if lines(path).count("run") == 1:
        if how == "snooze":
            return Snooze(0)
        time.sleep(60)
    return None


@job(registry=registry, executor="process")
def loses_its_job(path: str, go: str) -> None:
    note(path, "begun")
    wait_until_there(go)
    for call in (lambda: step("charge", int, 1), lambda: wait_for("go"), lambda: progress(1)):
        try:
            call()
        except AttemptLost:
            note(path, "lost")
    for _ in step.each("rows", [1]):
        note(path, "row")


@job(registry=registry, executor="process", max_attempts=1)
def sleeps(path: str) -> None:
    note(path, "before")
    sleep("rest", "1 day")
    note(path, "after")


@job(registry=registry, executor="process", max_attempts=1)
async def waits_on_a_loop(path: str, within: str | None) -> Record:
    note(path, "before")
    answer = await wait_for("approval", within=within)
    return Record(None if answer is None else answer.payload)


@job(registry=registry, executor="process")
def goes_on_when_suspended(path: str) -> Record:
    """Catch everything, as some libraries do."""
    try:
        wait_for("never")
    except BaseException as error:
        note(path, type(error).__name__)
    return Record(step("one", int, 1))


@job(registry=registry, executor="process")
def cleans_up_when_suspended(path: str) -> None:
    try:
        wait_for("go")
    except Suspended:
        step("undo", note, path, "undone")
        raise


@job(registry=registry, executor="process", timeout=3, backoff=no_wait, max_attempts=10)
def is_too_slow(path: str) -> None:
    step("charge", note, path, "charge")
    if current_job().attempt == 1:
        step("slow", time.sleep, 60)


@job(registry=registry, executor="process")
def is_cancelled(path: str) -> None:
    step("charge", note, path, "charge")
    try:
        step("slow", time.sleep, 60)
    finally:
        with contextlib.suppress(AttemptLost):
            step("after", note, path, "after")


@job(registry=registry, executor="process")
def is_asked_to_stop(path: str) -> None:
    """Take steps until it is interrupted; code that only asks may return before that, and has completed then."""
    while True:
        step("tick", int, 1)
        if lines(path) == []:
            note(path, "begun")


@job(registry=registry, executor="process")
async def takes_steps_in_threads(path: str) -> Record:
    def in_thread() -> int:
        return step("charge", int, 7)

    got: list[Any] = [await asyncio.to_thread(in_thread)]

    def left_behind() -> None:
        time.sleep(0.2)
        try:
            step("late", int, 1)
        except AttemptLost as error:
            note(path, error)

    import contextvars

    threading.Thread(target=contextvars.copy_context().run, args=(left_behind,)).start()
    return Record(got)


@job(registry=registry, executor="process")
def leaves_a_question(path: str) -> None:
    """End while a thread waits for an answer of the journal, once the file is there."""
    import contextvars

    def left_behind() -> None:
        with contextlib.suppress(AttemptLost):
            step("late", int, 1)

    threading.Thread(target=contextvars.copy_context().run, args=(left_behind,)).start()
    while not Path(path).exists():
        time.sleep(0.01)


@job(registry=registry, executor="process")
def forks(path: str) -> None:
    child = os.fork()
    if child == 0:
        try:
            step("one", int, 1)
        except ValueError as error:
            note(path, error)
        os._exit(0)
    os.waitpid(child, 0)


@job(registry=registry, executor="process")
def commits_a_session() -> Record:
    """Return what taking part in a session is refused with."""
    try:
        step.commit(Session(), "book", book)
    except ValueError as error:
        return Record(str(error))
    return Record("it was taken")


def book(session: Session) -> int:
    return 1


@job(registry=registry, executor="process", backoff=no_wait)
def renames() -> None:
    step("kept", int, 1)
    step(f"charge {current_job().attempt}", int, 1)
    fails_first()


@job(registry=registry, executor="process", backoff=no_wait)
def takes_no_step_any_more() -> None:
    if current_job().attempt == 1:
        step("gone", int, 1)
    fails_first()


@job(registry=registry, executor="process", backoff=no_wait)
def tells_its_progress() -> None:
    progress(0.5, "half")
    progress(1, "all")
    fails_first()


@job(registry=registry, executor="process")
def takes_none() -> None:
    """Take no step."""


@job(registry=registry, executor="process", backoff=no_wait)
def fails_without_steps() -> None:
    fails_first()
