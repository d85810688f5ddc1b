"""What a thread has done on the loop always ends for the thread, and so do threads when they are let go."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import AttemptCancelled, AttemptTimedOut
from oban_sa.runner.cluster.heartbeat import Heartbeat
from oban_sa.runner.concurrency import bridge
from oban_sa.runner.concurrency.bridge import LoopCall
from oban_sa.runner.concurrency.threads import ThreadCall, Threads
from oban_sa.runner.database.database import Database
from tests.support import eventually

WITHIN = 10.0
"""Seconds after which a thread that should have gone on counts as one that waits for ever."""


def waited(loop_call: LoopCall) -> tuple[threading.Thread, list[Any]]:
    """A thread that waits for the end of `loop_call`, and what it is told."""
    told: list[Any] = []

    def wait() -> None:
        loop_call.wait()
        try:
            told.append(loop_call.result())
        except BaseException as error:
            told.append(type(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, told


async def ended(thread: threading.Thread) -> None:
    await eventually(lambda: not thread.is_alive(), WITHIN)


async def test_a_loop_call_that_is_cancelled_before_its_first_step_ends_for_the_thread() -> None:
    ran: list[bool] = []

    async def work() -> None:
        ran.append(True)

    loop_call = LoopCall(asyncio.get_running_loop(), work())
    # Both before the loop takes its next turn, in which the one makes a task and the other cancels it.
    loop_call.go()
    loop_call.cancel(AttemptTimedOut)
    thread, told = waited(loop_call)
    await ended(thread)
    assert told == [AttemptTimedOut]
    assert ran == []


async def test_a_loop_call_that_is_cancelled_before_it_is_begun_is_not_done() -> None:
    loop_call = LoopCall(asyncio.get_running_loop(), asyncio.Event().wait())
    loop_call.cancel(AttemptTimedOut)
    loop_call.go()
    thread, told = waited(loop_call)
    await ended(thread)
    assert told == [AttemptTimedOut]


async def test_a_task_that_others_cancel_before_its_first_step_is_an_error_in_the_thread() -> None:
    loop_call = LoopCall(asyncio.get_running_loop(), asyncio.sleep(0))
    loop_call._begin()
    assert loop_call._task is not None
    loop_call._task.cancel()
    thread, told = waited(loop_call)
    await ended(thread)
    assert told == [asyncio.CancelledError]


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), ValueError()])
async def test_what_is_raised_on_the_loop_is_raised_in_the_thread_alone(error: BaseException) -> None:
    async def raises() -> None:
        raise error

    loop_call = LoopCall(asyncio.get_running_loop(), raises())
    loop_call.go()
    thread, told = waited(loop_call)
    await ended(thread)
    assert told == [type(error)]


async def test_an_interruption_is_told_although_the_loop_call_failed_by_itself(threads: Threads) -> None:
    """Code that retries what the database refuses would never hear of it."""
    waits = asyncio.Event()

    async def refuses() -> None:
        waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    def retries() -> str:
        try:
            return str(call.on_loop(refuses()))
        except ValueError:
            return "went on"

    call = threads.call(retries)
    await waits.wait()
    call.interrupt(AttemptTimedOut)
    with pytest.raises(AttemptTimedOut):
        await call.future


@pytest.mark.parametrize("begun", [True, False], ids=["under way", "not begun"])
async def test_a_thread_hears_of_it_where_the_loop_is_closed(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    monkeypatch.setattr(bridge, "LOOK_EVERY", 0.05)
    loop = asyncio.new_event_loop()
    awaited: asyncio.Future[None] = loop.create_future()
    loop_call = LoopCall(loop, awaited)
    loop_call.go()
    if begun:
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0))
    thread, told = waited(loop_call)
    loop.close()
    await ended(thread)
    assert told == [AttemptCancelled]


async def test_code_whose_loop_is_closed_before_its_answer_gets_there_is_told_so() -> None:
    """What it has open is closed in its thread: no one on the loop will."""
    wanted: list[bool] = []

    async def make() -> ThreadCall:
        call = ThreadCall(lambda: "answer")
        call.afterwards = wanted.append
        return call

    def in_a_thread() -> None:
        loop = asyncio.new_event_loop()
        call = loop.run_until_complete(make())
        call.run()
        loop.close()
        call.tell()

    await asyncio.to_thread(in_a_thread)
    assert wanted == [True, False]


async def test_an_answer_that_was_given_before_the_threads_were_let_go_still_counts() -> None:
    call = ThreadCall(lambda: "answer")
    call.run()
    call.abandon()
    call.tell()
    assert await call.future == "answer"
    assert not call.left_behind


async def test_what_an_earlier_call_has_begun_is_ended_although_the_threads_were_let_go(threads: Threads) -> None:
    await threads.close(5.0)
    ended = ThreadCall(lambda: "ended")
    assert await threads.start(ended, last=True).future == "ended"
    await eventually(lambda: not any(thread.is_alive() for thread in threads._threads))


async def test_closing_ends_although_a_thread_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    assert await threads.call(lambda: "answer").future == "answer"
    stop = threading.Event()
    busy = threads.call(stop.wait)

    def refuses(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await threads.call(lambda: "never").future
        async with asyncio.timeout(WITHIN):
            await Threads.close(threads, 0.05)
    stop.set()
    assert await busy.future is True
    assert len(threads._threads) == 0


async def test_closing_waits_for_free_threads_although_another_could_not_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads()
    assert await threads.call(lambda: "answer").future == "answer"
    stop = threading.Event()
    busy = threads.call(stop.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no more threads")))
        refused = threads.call(lambda: "never")
    with pytest.raises(RuntimeError, match="no more threads"):
        await refused.future
    stop.set()
    await busy.future
    started = list(threads._threads)
    async with asyncio.timeout(WITHIN):
        await threads.close(5.0)
    assert [thread.is_alive() for thread in started] == [False]


async def test_no_code_begins_once_the_threads_were_let_go() -> None:
    threads = Threads()
    stop, started = threading.Event(), threading.Event()

    def waits() -> None:
        started.set()
        stop.wait()

    busy = threads.call(waits)
    await asyncio.to_thread(started.wait)
    await threads.close(0.05)
    stop.set()
    await busy.future
    with pytest.raises(AttemptCancelled, match="has stopped"):
        async with asyncio.timeout(WITHIN):
            await threads.call(lambda: "never").future


async def test_a_heartbeat_ends_with_the_loop_of_its_runner(engine: AsyncEngine) -> None:
    """Or the jobs of a runner that nobody stopped would be taken for held as long as its process lives."""
    heartbeat = Heartbeat(lambda: Database(engine), every=0.01, rows=list, lost=list)

    def start() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(heartbeat.start())
        loop.close()

    await asyncio.to_thread(start)
    assert heartbeat._thread is not None
    await ended(heartbeat._thread)
