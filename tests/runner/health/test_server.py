"""What a runner says of its health over HTTP, and what it says of a loop that is blocked."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban, Runner, current_job, job, telemetry
from oban_sa.errors import InvalidOption, RunnerError
from oban_sa.runner.health import checks, loop_lag
from oban_sa.runner.health import server as health
from oban_sa.runner.health.check import Check
from oban_sa.runner.health.server import Health
from oban_sa.runner.queue.queues import Queues
from tests.runner.conftest import Harness
from tests.support import eventually


@asynccontextmanager
async def served(*, well: bool = True) -> AsyncIterator[tuple[str, int]]:
    """Health by itself: `/live` is well, `/ready` as asked for."""

    async def live() -> dict[str, Check]:
        return {"loop": Check(well=True)}

    async def ready() -> dict[str, Check]:
        return {"database": Check(well, None if well else "away"), "loop": Check(well=True)}

    server = Health({"/live": live, "/ready": ready}, host="127.0.0.1", port=0)
    await server.start()
    assert server.address is not None
    try:
        yield server.address
    finally:
        await server.stop()


async def raw(address: tuple[str, int], request: bytes, *, ends: bool = False) -> bytes:
    """Send bytes and return all that comes back."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        if ends:
            writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def status(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 ")
    fields = dict(line.split(b": ", 1) for line in lines[1:])
    assert fields[b"Connection"] == b"close"
    assert int(fields[b"Content-Length"]) == len(body)
    assert "error" in json.loads(body) or "status" in json.loads(body)
    return int(lines[0].split()[1])


# HTTP


@pytest.mark.parametrize(("well", "code", "said"), [(True, 200, "ok"), (False, 503, "unavailable")])
async def test_the_status_says_whether_all_is_well_and_the_body_what_is_not(well: bool, code: int, said: str) -> None:
    async with served(well=well) as (host, port), httpx.AsyncClient() as client:
        answer = await client.get(f"http://{host}:{port}/ready")
    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["status"] == said
    database = {"ok": True} if well else {"ok": False, "detail": "away"}
    assert answer.json()["checks"] == {"database": database, "loop": {"ok": True}}


async def test_head_is_answered_as_get_without_the_body() -> None:
    async with served(well=False) as (host, port), httpx.AsyncClient() as client:
        get = await client.get(f"http://{host}:{port}/ready")
        answer = await client.head(f"http://{host}:{port}/ready")
    assert answer.status_code == 503
    assert answer.content == b""
    assert answer.headers == get.headers
    assert int(answer.headers["content-length"]) == len(get.content)
    async with served() as address:
        answered = await raw(address, b"HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answered.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/livez", "/ready/", "//live"])
async def test_other_paths_are_not_found(path: str) -> None:
    async with served() as address:
        assert status(await raw(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == 404


@pytest.mark.parametrize("target", ["/live?verbose=1", "http://x/live", "http://x/live?a=b"])
async def test_a_path_is_known_in_every_form_that_clients_write(target: str) -> None:
    async with served() as address:
        assert status(await raw(address, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == 200


async def test_methods_that_change_things_are_told_which_ones_there_are() -> None:
    async with served() as address:
        answer = await raw(address, b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert status(answer) == 405
    assert b"Allow: GET, HEAD\r\n" in answer


async def test_http_1_0_is_understood_without_a_host() -> None:
    async with served() as address:
        assert status(await raw(address, b"GET /live HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /live HTTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
        (b"GET  /live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"get /live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /live\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /l\xc3\xaeve HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /live HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /live HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 200_000, 431),
    ],
)
async def test_bad_requests_are_answered_with_what_is_wrong_with_them(request_: bytes, code: int) -> None:
    async with served() as address:
        assert status(await raw(address, request_)) == code
        assert status(await raw(address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


async def test_half_a_request_is_a_bad_one_and_none_at_all_gets_no_answer() -> None:
    async with served() as address:
        assert status(await raw(address, b"GET /live HTT", ends=True)) == 400
        assert await raw(address, b"", ends=True) == b""


@pytest.mark.parametrize("begun", [b"", b"GET /live HTTP/1.1\r\nHos"])
async def test_a_client_that_takes_its_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(health, "WITHIN", 0.2)
    async with served() as address:
        assert status(await raw(address, begun)) == 408


async def test_a_client_that_never_leaves_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WITHIN", 0.2)
    async with served() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(await reader.read()) == 200

        async def refused() -> None:
            # It still writes, long after the answer, until its connection is gone.
            writer.write(b"x")
            with pytest.raises(OSError):
                await writer.drain()
                raise AssertionError

        await eventually(refused)
        writer.transport.abort()


@pytest.mark.parametrize("said", [b"", b"GET /li", b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_two_hundred_clients_that_stay_keep_no_probe_from_being_answered(said: bytes) -> None:
    async with served() as address:
        staying: list[asyncio.StreamWriter] = []
        for _ in range(200):
            _, writer = await asyncio.open_connection(*address)
            writer.write(said)
            staying.append(writer)
        for _ in range(5):
            assert status(await raw(address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")) == 200
        for writer in staying:
            writer.transport.abort()


async def test_clients_that_are_being_answered_are_not_ended_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST", 2)
    asked, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> dict[str, Check]:
        asked.release()
        await go_on.wait()
        return {"loop": Check(well=True)}

    server = Health({"/live": slow}, host="127.0.0.1", port=0)
    await server.start()
    address = server.address
    assert address is not None
    answers = [asyncio.create_task(raw(address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")) for _ in range(2)]
    for _ in answers:
        await asked.acquire()

    async def turned_away() -> None:
        try:
            answer = await raw(address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        except ConnectionResetError:
            answer = b""
        assert answer == b""

    await turned_away()
    go_on.set()
    assert [status(await answer) for answer in answers] == [200, 200]
    await server.stop()


async def test_a_report_that_can_not_be_made_is_no_good_sign(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> dict[str, Check]:
        raise LookupError("no queue")

    server = Health({"/live": broken}, host="127.0.0.1", port=0)
    await server.start()
    assert server.address is not None
    assert status(await raw(server.address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")) == 503
    await server.stop()
    assert "LookupError: no queue" in caplog.text


async def test_an_answer_arrives_though_much_of_the_request_was_never_read() -> None:
    async with served() as address:
        assert status(await raw(address, b"GET /" + b"x" * 20_000_000)) == 431


async def test_a_server_that_stops_does_not_wait_for_those_who_are_slow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WITHIN", 1000.0)
    async with asyncio.timeout(20), served() as address:
        _, writer = await asyncio.open_connection(*address)
        assert status(await raw(address, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")) == 200
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)
    writer.transport.abort()
    assert caplog.text == ""


# The runner


async def get(runner: Runner, path: str) -> tuple[int, dict[str, Any]]:
    assert runner.health_address is not None
    answer = await raw(runner.health_address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return status(answer), json.loads(answer.partition(b"\r\n\r\n")[2])["checks"]


async def test_a_runner_at_work_is_live_and_ready(harness: Harness) -> None:
    async with harness.runner(health_port=0, queues={"default": 1, "mailers": 1}) as runner:

        async def ready() -> dict[str, Any]:
            code, found = await get(runner, "/ready")
            assert code == 200, found
            return found

        found = await eventually(ready)
        assert (await get(runner, "/live"))[0] == 200
    assert found == {
        "running": {"ok": True},
        "database": {"ok": True},
        "rights": {"ok": True},
        "notifications": {"ok": True, "detail": "listening"},
        "queue default": {"ok": True},
        "queue mailers": {"ok": True},
    }


async def test_health_is_served_to_this_machine_alone_unless_asked_for(harness: Harness) -> None:
    async with harness.runner(health_port=0) as runner:
        assert runner.health_address is not None
        assert runner.health_address[0] == "127.0.0.1"
    async with harness.runner() as runner:
        assert runner.health_address is None
    async with harness.runner(health_port=0, health_host="127.0.0.2") as runner:
        assert runner.health_address is not None
        assert runner.health_address[0] == "127.0.0.2"


async def test_a_runner_that_stops_is_live_but_not_ready(harness: Harness) -> None:
    started, done = asyncio.Event(), asyncio.Event()

    @job(registry=harness.registry)
    async def long() -> None:
        started.set()
        await done.wait()

    await harness.enqueue(long.new())
    async with harness.runner(health_port=0) as runner:
        await started.wait()
        runner.stop()
        closing = asyncio.create_task(runner.__aexit__(None, None, None))
        await asyncio.sleep(0)
        code, found = await get(runner, "/ready")
        assert code == 503
        assert found["running"] == {"ok": False, "detail": "stopping"}
        assert (await get(runner, "/live"))[0] == 200
        done.set()
        await closing
        assert runner.health_address is None


async def test_a_runner_is_not_ready_before_it_has_begun(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> None:
        begun.set()
        await go_on.wait()

    monkeypatch.setattr(Queues, "begin", slow)
    runner = Runner(harness.engine, **harness.options, health_port=0)
    starting = asyncio.create_task(runner.__aenter__())
    await begun.wait()
    code, found = await get(runner, "/ready")
    assert code == 503
    assert found["running"] == {"ok": False, "detail": "starting"}
    monkeypatch.undo()
    go_on.set()
    await starting
    await runner.__aexit__(None, None, None)


async def test_a_runner_that_hears_nothing_is_ready_because_it_polls(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.runner(health_port=0) as runner:
        await eventually(lambda: runner._notifier.proven)
        runner._notifier.proven = False
        code, found = await get(runner, "/ready")
        assert (code, found["notifications"]) == (503, {"ok": False, "detail": "connecting"})
        monkeypatch.setattr(runner._notifier, "_deaf", True)
        code, found = await get(runner, "/ready")
        assert (code, found["notifications"]) == (200, {"ok": True, "detail": "polling"})


async def test_a_queue_that_has_stopped_fetching_is_named(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async with harness.runner(health_port=0) as runner:
        await eventually(lambda: runner._notifier.proven)
        [producer] = runner._queues.all
        await eventually(lambda: producer.cycled_at is not None)

        async def failing() -> None:
            raise RuntimeError("no more cycles")

        monkeypatch.setattr(producer._cycle, "run", failing)
        monkeypatch.setattr(runner.checks, "_patience", 0.3)

        async def named() -> None:
            code, found = await get(runner, "/ready")
            assert code == 503
            assert found["queue default"]["detail"].startswith("nothing fetched or written for ")

        await eventually(named)
        monkeypatch.undo()


async def test_a_paused_queue_is_well(harness: Harness) -> None:
    await Oban(harness.engine).pause_queue("default")
    async with harness.runner(health_port=0) as runner:

        async def paused() -> None:
            code, found = await get(runner, "/ready")
            assert code == 200
            assert found["queue default"] == {"ok": True, "detail": "paused"}

        await eventually(paused)


async def test_a_loop_that_hardly_turns_is_not_live(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async with harness.runner(health_port=0) as runner:
        monkeypatch.setattr(checks, "LAG_LIMIT", -1.0)
        code, found = await get(runner, "/live")
        assert code == 503
        assert found["loop"]["ok"] is False
        assert found["loop"]["detail"]["lag"] >= 0


async def test_the_database_is_asked_once_however_many_want_to_know(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.runner(health_port=0) as runner:
        asked: list[object] = []
        fetch = runner.checks._line.fetch

        async def counting(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments)
            return await fetch(*arguments, **options)

        monkeypatch.setattr(checks, "ASK_EVERY", 1000.0)
        monkeypatch.setattr(runner.checks, "_asked_at", -2000.0)
        monkeypatch.setattr(runner.checks._line, "fetch", counting)
        await asyncio.gather(*(get(runner, "/ready") for _ in range(20)))
        assert len(asked) == 1


async def test_a_port_that_is_taken_is_a_failure_that_names_it(harness: Harness) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunnerError, match=f"health can't be served at 127.0.0.1:{port}: .*--health-port"):
            async with harness.runner(health_port=port):
                pass


@pytest.mark.parametrize("port", [-1, 70_000, "8080", True])
def test_what_is_no_port_is_refused(engine: AsyncEngine, port: Any) -> None:
    with pytest.raises(InvalidOption, match="health_port is the number of a port"):
        Runner(engine, health_port=port)


@pytest.mark.chaos
async def test_a_database_that_is_away_makes_a_runner_unready_until_it_is_back(own_server: Any) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(own_server.url)
    try:
        async with Runner(engine, health_port=0, poll_every=0.2) as runner:

            async def is_(code: int) -> None:
                answer, found = await get(runner, "/ready")
                assert answer == code, found
                assert found["database"]["ok"] is (code == 200)

            await eventually(lambda: is_(200))
            own_server.stop()
            await eventually(lambda: is_(503), 30)
            assert (await get(runner, "/live"))[0] == 200
            own_server.start()
            await eventually(lambda: is_(200), 30)
    finally:
        await engine.dispose()


# A blocked loop


def hold(seconds: float) -> None:
    time.sleep(seconds)


def lags(events: list[Any]) -> list[Any]:
    """Those that a job caused; on a busy machine a loop may stand still for other reasons."""
    return [event for event in events if event.job_id is not None]


async def test_a_job_that_blocks_the_loop_is_named_once_with_the_line(
    harness: Harness, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @job(registry=harness.registry, name="blocking")
    async def blocking() -> None:
        hold(0.9)

    [job_id] = await harness.enqueue(blocking.new())
    async with harness.runner(blocked_after=0.2):
        await eventually(lambda: lags(of(telemetry.RunnerLag)))
    warnings = [record for record in caplog.records if re.search("loop has been blocked.*by job", record.getMessage())]
    assert len(warnings) == 1
    said = warnings[0].getMessage()
    assert f"by job {job_id} blocking at {__file__}:{hold.__code__.co_firstlineno + 1} in hold" in said
    assert warnings[0].levelno == logging.WARNING
    assert vars(warnings[0])["job_id"] == job_id
    [event] = lags(of(telemetry.RunnerLag))
    assert (event.job_id, event.worker) == (job_id, "blocking")
    assert event.place.endswith(" in hold")
    assert event.lag > 0.2


async def test_the_job_is_known_though_a_task_that_it_started_blocks(harness: Harness, of: Any) -> None:
    async def sub() -> None:
        hold(0.9)

    @job(registry=harness.registry, name="parent")
    async def parent() -> None:
        await asyncio.create_task(sub(), name="the child")

    [job_id] = await harness.enqueue(parent.new())
    async with harness.runner(blocked_after=0.2):
        await eventually(lambda: lags(of(telemetry.RunnerLag)))
    [event] = lags(of(telemetry.RunnerLag))
    assert (event.job_id, event.task) == (job_id, "the child")


async def test_code_of_nobody_s_job_is_named_by_its_task(
    harness: Harness, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness.runner(blocked_after=0.2):

        async def web() -> None:
            hold(0.9)

        await asyncio.create_task(web(), name="a request")
        await eventually(lambda: "a request" in [event.task for event in of(telemetry.RunnerLag)])
    assert lags(of(telemetry.RunnerLag)) == []
    assert "blocked for" in caplog.text
    assert "by the task 'a request'" in caplog.text


async def test_of_two_runners_on_one_loop_the_one_that_runs_the_job_says_so(
    harness: Harness, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @job(registry=harness.registry)
    async def blocking() -> None:
        hold(0.9)

    async with (
        harness.runner(blocked_after=0.2, node="other", queues={"other": 1}) as other,
        harness.runner(blocked_after=0.2, node="mine"),
    ):
        await harness.enqueue(blocking.new())
        await eventually(lambda: lags(of(telemetry.RunnerLag)))
        assert other._reports._watch is not None
        await eventually(lambda: other._reports._watch.lag < 0.2)
    assert [event.runner.node for event in lags(of(telemetry.RunnerLag))] == ["mine"]
    assert len(re.findall("loop has been blocked.*by job", caplog.text)) == 1


async def test_a_job_in_a_thread_blocks_nobody(harness: Harness, of: Any) -> None:
    @job(registry=harness.registry)
    def in_thread() -> None:
        hold(0.9)

    await harness.enqueue(in_thread.new())
    await harness.drain(blocked_after=0.2)
    assert lags(of(telemetry.RunnerLag)) == []


async def test_a_watch_that_stops_leaves_no_thread(harness: Harness) -> None:
    async with harness.runner() as runner:
        assert runner._reports._watch is not None
        assert runner._reports._watch._thread is not None
        thread = runner._reports._watch._thread
        assert thread.is_alive()
    assert not thread.is_alive()
    async with harness.runner(blocked_after=None) as runner:
        assert runner._reports._watch is None


def test_a_loop_can_not_be_blocked_for_no_time(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidOption, match="every loop is blocked for 0 seconds"):
        Runner(engine, blocked_after=0)


def test_the_place_is_the_innermost_line_of_the_user_s_own_code() -> None:
    found: list[str] = []

    class Encoder(json.JSONEncoder):
        def default(self, o: object) -> object:
            return None

    def here() -> None:
        found.append(loop_lag.place(sys._getframe()))

    def sorting() -> None:
        sorted([1], key=lambda _: here())

    sorting()
    assert found[0].endswith("here")
    # Called by the standard library, whose frames stand between.
    inner = None

    def deep(match: Any) -> str:
        nonlocal inner
        inner = sys._getframe().f_back
        return ""

    re.sub("x", deep, "x")
    assert inner is not None
    assert inner.f_code.co_filename == re.__file__
    assert loop_lag.place(inner).startswith(__file__)


def test_the_place_is_no_line_of_this_package() -> None:
    found: list[str] = []

    def handle(_event: telemetry.Event) -> None:
        frame = sys._getframe().f_back
        assert frame is not None
        assert "oban_sa" in frame.f_code.co_filename
        found.append(loop_lag.place(frame))

    detach = telemetry.attach(handle, telemetry.RunnerStop)
    telemetry.emit(telemetry.RunnerStop(runner=telemetry.Source(node="n"), duration=0.0, given_back=0))
    detach()
    assert [place.split(":")[0] for place in found] == [__file__]


async def test_the_job_of_a_task_is_known_from_outside_of_it() -> None:
    from oban_sa.workers import running

    made = Job("w")
    went_on = asyncio.Event()

    async def work() -> None:
        with running(made):
            assert current_job() is made
            await went_on.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert loop_lag._job_of(task) is made
    went_on.set()
    await task
    assert loop_lag._job_of(asyncio.create_task(asyncio.sleep(0))) is None
