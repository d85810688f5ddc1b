"""Workers that run in processes of their own, which import this module."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from oban_sa import Cancel, Job, Record, Snooze, current_job, deps, job, worker
from oban_sa.errors import DependencyNotLoaded
from oban_sa.workers import Registry
from tests.hostile import HOSTILE

PRIVATE = Registry()

logger = logging.getLogger("myapp.images")


def note(path: str, text: str = "") -> None:
    """Say on disk that the code is there; its process by default."""
    draft = Path(f"{path}.{os.getpid()}")
    draft.write_text(text or str(os.getpid()))
    draft.rename(path)


@job(executor="process", record=True)
def add_here(rows: list[int]) -> list[Any]:
    """Take a result as an argument, and ask for dependencies, which do not reach here."""
    try:
        found = dict(deps())
    except DependencyNotLoaded as error:
        return [sum(rows), f"{type(error).__name__}: {error}"]
    return [sum(rows), found]


@job(executor="process")
def crash(code: int = 1) -> None:
    os._exit(code)


@job(executor="process")
def dies_of(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


@job(executor="process")
def pid_of_child(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")


@job(executor="process")
def pid() -> int:
    return os.getpid()


@job(executor="process")
def dozes(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@job(executor="process")
def linger(path: str) -> None:
    note(path)
    time.sleep(60)


@job(executor="process")
def cleans_up(path: str) -> None:
    try:
        note(path)
        time.sleep(60)
    except BaseException as error:
        note(f"{path}.cleaned", type(error).__name__)
        raise


@job(executor="process")
async def cleans_up_on_a_loop(path: str) -> None:
    try:
        note(path)
        await asyncio.sleep(60)
    finally:
        note(f"{path}.cleaned", "cleaned")


@job(executor="process")
def answers_when_interrupted(path: str) -> str:
    try:
        note(path)
        time.sleep(60)
    except Exception:
        return "half of it"
    return "all of it"


@job(executor="process")
def refuses_to_stop(path: str) -> None:
    note(path)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


@job(executor="process")
def stuck_in_c(path: str) -> None:
    note(path)
    # PyDLL keeps the interpreter's lock, so that no other thread of the process ever runs again.
    ctypes.PyDLL(None).sleep(60)


@job(executor="process", timeout=0.5)
def dawdle(path: str) -> None:
    note(path)
    time.sleep(60)


@job(executor="process", cancel="ask")
def obeys(job: Job, path: str) -> Cancel:
    note(path)
    while not job.cancelled():
        time.sleep(0.01)
    assert current_job().cancelled()
    return Cancel("as asked")


@job(executor="process")
def raises(kind: str) -> None:
    raise {
        "StopIteration": StopIteration,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
        "GeneratorExit": GeneratorExit,
    }[kind]("out")


class StubbornError(Exception):
    """An error that can be pickled, but not be made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("stubborn")


@job(executor="process")
def raises_what_can_not_cross(how: str) -> None:
    if how == "stubborn":
        raise StubbornError(1, 2)
    if how == "local":

        class LocalError(Exception):
            pass

        raise LocalError("from here")
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


@job(executor="process")
def raises_something_hostile(oddity: str) -> None:
    _, make = HOSTILE[oddity]
    raise make()


class Quitter:
    """What ends the program that pickles it."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


@job(executor="process")
def raises_what_quits() -> None:
    error = ValueError("with a quitter")
    error.quitter = Quitter()  # type: ignore[attr-defined]
    raise error


@job(executor="process")
def answers_what_quits() -> Any:
    return Quitter()


@job(executor="process")
def logs_what_can_not_be_said() -> None:
    logging.getLogger("tests.said").warning("odd: %s %d", HOSTILE["a __str__ that raises"][1](), 7)


@job(executor="process")
def raises_what_is_not_imported_elsewhere() -> None:
    import tests.runner.concurrency.only_in_processes as far

    raise far.FarError("far away")


@job(executor="process")
def unpicklable() -> object:
    return lambda: None


@job(executor="process")
def huge(size: int) -> bytes:
    return b"x" * size


@job(executor="process")
def answers(how: str) -> Any:
    return {"snooze": Snooze(60), "record": Record({"a": 1}), "cancel": Cancel("no"), "none": None}[how]


@job(executor="process")
def asks_who_it_is(job: Job, path: str) -> None:
    Path(path).write_text(f"{current_job().id} {job.attempt} {job.attempted_by[0]}")


@job(executor="process")
async def on_a_loop(number: int) -> int:
    await asyncio.sleep(0)
    return number + current_job().id


@worker(executor="process")
class OnALoop:
    async def process(self, job: Job) -> int:
        await asyncio.sleep(0)
        return job.args["number"] + current_job().id


@job(executor="process")
def logs(level: int = logging.WARNING) -> None:
    logger.log(level, "resized %s", "cat.png", extra={"width": 100, "lock": threading.Lock()})


@job(executor="process")
def logs_as_the_runner() -> None:
    logging.getLogger("oban_sa.inside").warning("still here")


@job(executor="process")
def logs_an_error() -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        logger.exception("no luck")


@job(executor="process")
def logs_between_calls() -> None:
    def later() -> None:
        time.sleep(0.05)
        logger.warning("later")

    threading.Thread(target=later).start()


@job(executor="process")
def warns() -> None:
    warnings.warn("careful", UserWarning, stacklevel=1)


@job(executor="process")
def talks_until_interrupted(path: str) -> None:
    note(path)
    while True:
        logger.warning("x" * 10_000)


@job(executor="process")
def signals_itself() -> str:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return "unimpressed"


@job(executor="process")
def leaves_a_fork_behind(path: str) -> None:
    # It holds on to everything that was open here.
    if os.fork() == 0:
        note(path)
        logger.warning("from the fork")
        time.sleep(60)
        os._exit(0)
    os._exit(3)


@job(executor="process")
def runs_a_program(path: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"import os, time; open({path!r}, 'w').write(str(os.getpid())); time.sleep(60)"],
        check=True,
    )


@job(executor="process")
def closes_everything() -> None:
    os.closerange(3, 256)


@job(executor="process", registry=PRIVATE, name="private")
def private() -> str:
    return "found"


class Big:
    """As a table of numbers would be, in a local variable."""


_held: list[weakref.ref[Big]] = []


@job(executor="process")
def holds() -> None:
    gc.disable()
    big = Big()
    _held.append(weakref.ref(big))
    raise ValueError("held")


@job(executor="process")
def still_held() -> Record:
    return Record(any(ref() is not None for ref in _held) or not _held)


class Noting(logging.Handler):
    """An application's own handler, which this module sets up wherever it is imported."""

    def emit(self, record: logging.LogRecord) -> None:
        with Path(record.path).open("a") as file:  # type: ignore[attr-defined]
            file.write(f"{os.getpid()} {record.getMessage()}\n")


for _name, _propagate in (("myapp.own", True), ("myapp.apart", False)):
    logging.getLogger(_name).addHandler(Noting())
    logging.getLogger(_name).propagate = _propagate

requested_by: ContextVar[str] = ContextVar("requested_by", default="nobody")


@job(executor="process")
def logs_by_a_handler(name: str, path: str) -> None:
    logging.getLogger(name).warning("hello", extra={"path": path})


@job(executor="process")
def logs_by_a_handler_of_its_own(path: str) -> int:
    mine = Noting()
    logger.addHandler(mine)
    logger.warning("hello", extra={"path": path})
    logger.removeHandler(mine)
    return os.getpid()


@job(executor="process")
def remembers(name: str) -> tuple[int, str]:
    before = requested_by.get()
    requested_by.set(name)
    return os.getpid(), before


@job(executor="process")
async def remembers_on_a_loop(name: str) -> tuple[int, str]:
    return await asyncio.to_thread(remembers, name)


@job(executor="process", timeout=0.3)
def swallows_its_timeout() -> str:
    for _ in range(2):
        with contextlib.suppress(Exception):
            time.sleep(30)
            raise AssertionError("nothing interrupted it")
        break
    return "went on"
