"""Workers that fork, as libraries do behind people's backs; each records how its children ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Record, job

FORK = multiprocessing.get_context("fork")


def doze() -> None:
    time.sleep(60)


def terminated() -> Record:
    child = FORK.Process(target=doze)
    child.start()
    child.terminate()
    child.join()
    return Record(child.exitcode)


def pooled() -> Record:
    with FORK.Pool(2) as pool:  # leaving the block terminates the children
        return Record(pool.map(abs, [-1, -2]))


def forked(number: int) -> Record:
    ready, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(says, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, number)
    return Record(ended(child))


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def comes_out(how: str) -> Record | None:
    """The child leaves the code of the job, in one way or another."""
    child = os.fork()
    if child == 0:
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise ValueError("from the fork")
        return None
    return Record(ended(child))


@job()
def in_thread(kind: str) -> Record | None:
    return KINDS[kind]()


@job()
async def on_loop(kind: str) -> Record | None:
    return KINDS[kind]()


@job(executor="process")
def in_process(kind: str) -> Record | None:
    return KINDS[kind]()


@job()
def in_session(kind: str, session: Session) -> Record | None:
    session.execute(text("INSERT INTO effects DEFAULT VALUES"))
    return KINDS[kind]()


@job()
async def in_async_session(kind: str, session: AsyncSession) -> Record | None:
    await session.execute(text("INSERT INTO effects DEFAULT VALUES"))
    return KINDS[kind]()


@job()
async def fine() -> None: ...


KINDS = {
    "terminated": terminated,
    "pooled": pooled,
    "told by SIGTERM": lambda: forked(signal.SIGTERM),
    "told by SIGINT": lambda: forked(signal.SIGINT),
    "returns": lambda: comes_out("return"),
    "exits": lambda: comes_out("exit"),
    "raises": lambda: comes_out("raise"),
}

ENDS = {
    "terminated": -signal.SIGTERM,
    "pooled": [1, 2],
    "told by SIGTERM": -signal.SIGTERM,
    "told by SIGINT": 1,  # KeyboardInterrupt comes out of the code, as it would out of any program
    "returns": 0,
    "exits": 7,
    "raises": 1,
}


def inheritable() -> list[str]:
    """What programs would inherit that a job starts without closing anything."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return found


@job()
def inherits_in_thread() -> Record:
    return Record(inheritable())


@job()
async def inherits_on_loop() -> Record:
    return Record(inheritable())


@job(executor="process")
def inherits_in_process() -> Record:
    return Record(inheritable())
