"""Processes for jobs: whatever happens in one, the others and the loop go on, and somebody says what it was."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from oban_sa import Job
from oban_sa.errors import (
    AttemptCancelled,
    AttemptCrashed,
    AttemptError,
    AttemptTimedOut,
    InvalidOption,
    WorkerNotFound,
)
from oban_sa.jobs.answers import Cancel, Record, Snooze
from oban_sa.jobs.verdicts import error_text
from oban_sa.runner.concurrency.processes.pool import Processes
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.workers import definition_of
from tests.hostile import HOSTILE
from tests.runner import process_jobs, step_process_jobs
from tests.support import alive, eventually, process

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    made = Processes(limit=2)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Processes]:
    """Processes for all tests of what comes out of one: to start one takes most of a second."""
    made = Processes(limit=2)
    yield made
    await made.close()


in_one_loop = pytest.mark.asyncio(loop_scope="module")


def fetched(job: Job, **values: Any) -> Job:
    """A job as a runner has fetched it."""
    now = datetime.now(UTC)
    empty = {column.name: None for column in Job.__table__.columns}
    row = {
        **empty, "id": 7, "state": "executing", "queue": "q", "worker": job.worker, "args": job.args, "meta": {},
        "errors": [], "attempt": 1, "max_attempts": 20, "priority": 0, "tags": [], "attempted_by": ["n"],
        "inserted_at": now, "scheduled_at": now, **values,
    }  # fmt: skip
    return Job.from_row(row)


async def call(processes: Processes, target: Any, within: float | None = None, **args: Any) -> Any:
    job = fetched(target.new(args) if isinstance(target, type) else target.new(**args))
    return await processes.call(definition_of(target), job, time_limit=TimeLimit(job, within))


async def written(path: Path) -> int:
    """The process that has left its number there."""
    return int(await eventually(lambda: path.exists() and path.read_text(), 30))


# What comes out


@in_one_loop
async def test_answers_cross_back(shared: Processes) -> None:
    answers = {"snooze": Snooze(60), "record": Record({"a": 1}), "cancel": Cancel("no"), "none": None}
    for how, answer in answers.items():
        found = await call(shared, process_jobs.answers, how=how)
        assert found == answer
        assert getattr(found, "encoded", None) == getattr(answer, "encoded", None)


@in_one_loop
async def test_an_answer_may_be_huge(shared: Processes) -> None:
    assert len(await call(shared, process_jobs.huge, size=50_000_000)) == 50_000_000


@in_one_loop
async def test_an_answer_that_can_not_cross_is_refused_with_words(shared: Processes) -> None:
    with pytest.raises(AttemptError, match=r"the answer, of type function, can't leave its process: .*return what"):
        await call(shared, process_jobs.unpicklable)
    assert await call(shared, process_jobs.pid)


@in_one_loop
async def test_an_error_that_can_not_cross_is_told_in_words(shared: Processes) -> None:
    words = {
        "stubborn": "StubbornError: stubborn",
        "local": "LocalError: from here",
        "lock": "ValueError: with a lock",
    }
    for how, message in words.items():
        with pytest.raises(AttemptError, match=message) as caught:
            await call(shared, process_jobs.raises_what_can_not_cross, how=how)
        assert "process_jobs.py" in str(caught.value.__cause__)
        assert "oban_sa/runner" not in str(caught.value.__cause__)


@in_one_loop
@pytest.mark.parametrize("oddity", HOSTILE)
async def test_an_error_crosses_whatever_it_is(shared: Processes, oddity: str) -> None:
    name, _ = HOSTILE[oddity]
    with pytest.raises(Exception) as caught:
        await call(shared, process_jobs.raises_something_hostile, oddity=oddity)
    text = error_text(caught.value)
    assert text.startswith((f"{name}: ", f"AttemptError: {name}: "))
    assert "in raises_something_hostile" in text or oddity in ("a huge text", "nothing can be read")
    assert await call(shared, process_jobs.pid)  # the process goes on, or another does


@in_one_loop
async def test_what_quits_while_it_is_pickled_ends_no_process(shared: Processes) -> None:
    before = await call(shared, process_jobs.pid)
    with pytest.raises(AttemptError, match="ValueError: with a quitter"):
        await call(shared, process_jobs.raises_what_quits)
    with pytest.raises(AttemptError, match="the answer, of type Quitter, can't leave its process"):
        await call(shared, process_jobs.answers_what_quits)
    assert await call(shared, process_jobs.pid) == before


@in_one_loop
async def test_a_record_whose_message_can_not_be_made_crosses_with_its_parts(
    shared: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    await call(shared, process_jobs.logs_what_can_not_be_said)
    [record] = [record for record in caplog.records if record.name == "tests.said"]
    assert record.getMessage().startswith("'odd: %s %d', <repr() of this Unprintable failed>, 7 (this could not be put")


@in_one_loop
async def test_no_error_makes_the_runner_import_anything(shared: Processes) -> None:
    with pytest.raises(AttemptError, match="FarError: far away"):
        await call(shared, process_jobs.raises_what_is_not_imported_elsewhere)
    assert "tests.runner.concurrency.only_in_processes" not in sys.modules


@in_one_loop
async def test_asynchronous_code_has_a_loop_in_its_process(shared: Processes) -> None:
    assert await call(shared, process_jobs.on_a_loop, number=3) == 10
    assert await call(shared, process_jobs.OnALoop, number=4) == 11


@in_one_loop
async def test_a_worker_in_a_registry_of_its_own_is_found(shared: Processes) -> None:
    assert await call(shared, process_jobs.private) == "found"


async def test_a_worker_of_a_module_that_was_imported_first_is_found() -> None:
    processes = Processes(imports=["tests.runner.concurrency.registers_others"])
    from tests.runner.concurrency import registers_others

    definition = registers_others.ELSEWHERE.find("registered elsewhere")
    assert await processes.call(definition, fetched(definition.job({}, {}))) == "undecorated"
    await processes.close()


async def test_a_worker_that_is_not_there_is_said_to_be_missing(processes: Processes) -> None:
    definition = definition_of(process_jobs.pid)
    missing = type("Missing", (), {"name": "tests.runner.process_jobs.gone", "module": definition.module})
    with pytest.raises(WorkerNotFound, match=r"tests\.runner\.process_jobs\.gone"):
        await processes.call(missing, fetched(process_jobs.pid.new()))  # type: ignore[arg-type]


# Death


@pytest.mark.parametrize(
    ("target", "args", "said"),
    [
        (process_jobs.crash, {"code": 3}, "ended with exit code 3"),
        (process_jobs.dies_of, {"number": signal.SIGKILL}, r"was killed by SIGKILL \(out of memory\?\)"),
        (process_jobs.dies_of, {"number": signal.SIGSEGV}, "was killed by SIGSEGV"),
    ],
)
async def test_who_dies_says_of_what_and_the_next_call_has_another_process(
    processes: Processes, target: Any, args: dict[str, Any], said: str
) -> None:
    before = await call(processes, process_jobs.pid)
    name = definition_of(target).name
    with pytest.raises(AttemptCrashed, match=f"the process that ran {name} {said}"):
        await call(processes, target, **args)
    assert await call(processes, process_jobs.pid) != before


async def test_a_process_that_died_while_it_had_nothing_to_do_fails_nobody(processes: Processes) -> None:
    first = await call(processes, process_jobs.pid)
    os.kill(first, signal.SIGKILL)
    assert await call(processes, process_jobs.pid) != first


async def test_a_death_is_noticed_though_a_fork_lives_on(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "fork"
    with pytest.raises(AttemptCrashed, match="exit code 3"):
        await call(processes, process_jobs.leaves_a_fork_behind, path=str(path))
    os.kill(await written(path), signal.SIGKILL)


async def test_code_that_closes_what_is_not_its_own_fails_and_harms_nobody(processes: Processes) -> None:
    with pytest.raises(AttemptCrashed):
        await call(processes, process_jobs.closes_everything)
    assert await call(processes, process_jobs.pid)


async def test_a_process_that_can_not_begin_fails_the_attempt_with_words() -> None:
    processes = Processes(imports=["tests.runner.concurrency.fails_to_import"])
    for _ in range(2):
        with pytest.raises(AttemptError, match=r"not import 'tests.*\.fails_to_import': RuntimeError: no such luck"):
            await call(processes, process_jobs.pid)
    await processes.close()


# Interruptions


async def test_a_timeout_ends_the_code_where_it_is(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(AttemptTimedOut, match="longer than its timeout of 500 ms") as caught:
        await call(processes, process_jobs.cleans_up, within=0.5, path=str(path))
    assert "time.sleep(60)" in str(caught.value.__cause__)
    assert (tmp_path / "pid.cleaned").read_text() == "AttemptTimedOut"
    pid = await written(path)
    await eventually(lambda: not alive(pid))


@pytest.mark.parametrize("kind", ["refuses_to_stop", "stuck_in_c"])
async def test_a_timeout_ends_code_that_can_not_be_interrupted(processes: Processes, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pid"
    with pytest.raises(AttemptTimedOut):
        await call(processes, getattr(process_jobs, kind), within=0.5, path=str(path))
    assert not alive(await written(path))


@pytest.mark.parametrize("kind", ["cleans_up", "cleans_up_on_a_loop"])
async def test_cancelling_interrupts_the_code_which_may_clean_up(
    processes: Processes, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "pid"
    calling = asyncio.create_task(call(processes, getattr(process_jobs, kind), path=str(path)))
    pid = await written(path)
    calling.cancel()
    with pytest.raises(AttemptCancelled):
        await calling
    assert (tmp_path / "pid.cleaned").exists()
    await eventually(lambda: not alive(pid))


async def test_an_answer_that_was_found_in_spite_of_an_interruption_counts(
    processes: Processes, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    calling = asyncio.create_task(call(processes, process_jobs.answers_when_interrupted, path=str(path)))
    await written(path)
    calling.cancel()
    assert await calling == "half of it"


async def test_cancelling_a_caller_ends_its_child_and_no_other(processes: Processes, tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    calls = [asyncio.create_task(call(processes, process_jobs.linger, path=str(path))) for path in paths]
    one, two = [await written(path) for path in paths]
    calls[0].cancel()
    await eventually(lambda: not alive(one))
    assert alive(two)
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: not alive(two))


async def test_code_that_is_only_asked_hears_of_it_in_its_process(processes: Processes, tmp_path: Path) -> None:
    job = fetched(process_jobs.obeys.new(path=str(tmp_path / "pid")))
    calling = asyncio.create_task(processes.call(definition_of(process_jobs.obeys), job))
    pid = await written(tmp_path / "pid")
    await asyncio.to_thread(job.request_cancel)
    assert await calling == Cancel("as asked")
    assert await call(processes, process_jobs.pid) == pid


async def test_what_was_asked_is_answered_no_more_once_the_code_has_ended(processes: Processes, tmp_path: Path) -> None:
    asked, path = asyncio.Event(), tmp_path / "asked"

    class Stuck:
        """A journal in a database that does not answer."""

        async def read(self) -> None:
            asked.set()
            await asyncio.Event().wait()

        def use(self, keys: object) -> None: ...

    def answering() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == "oban_sa answer"]

    job = fetched(step_process_jobs.leaves_a_question.new(str(path)))
    attempt = SimpleNamespace(journal=Stuck(), durable=None)
    calling = asyncio.create_task(
        processes.call(definition_of(step_process_jobs.leaves_a_question), job, attempt=attempt)
    )
    await asked.wait()
    assert len(answering()) == 1
    path.touch()
    await calling
    await eventually(lambda: not answering())


async def test_a_job_that_was_asked_before_it_began_knows(processes: Processes, tmp_path: Path) -> None:
    job = fetched(process_jobs.obeys.new(path=str(tmp_path / "pid")))
    job.request_cancel()
    assert await processes.call(definition_of(process_jobs.obeys), job) == Cancel("as asked")


async def test_an_interruption_never_cuts_a_message_in_two(processes: Processes, tmp_path: Path) -> None:
    logging.getLogger("myapp.images").setLevel(logging.WARNING)
    with pytest.raises(AttemptTimedOut) as caught:
        await call(processes, process_jobs.talks_until_interrupted, within=0.5, path=str(tmp_path / "pid"))
    assert "process_jobs.py" in str(caught.value.__cause__)  # and was not killed, for it was understood to the end


async def test_programs_of_an_interrupted_job_end_with_it(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    calling = asyncio.create_task(call(processes, process_jobs.runs_a_program, path=str(path)))
    await eventually(lambda: path.exists() and path.read_text(), 30)
    calling.cancel()
    with pytest.raises(AttemptCancelled):
        await calling
    await eventually(lambda: not alive(int(path.read_text())))


async def test_signals_to_everybody_do_not_reach_the_code(processes: Processes) -> None:
    assert await call(processes, process_jobs.signals_itself) == "unimpressed"


# How many, and for how long


async def test_no_more_processes_run_than_were_allowed(processes: Processes) -> None:
    pids = await asyncio.gather(*(call(processes, process_jobs.pid) for _ in range(6)))
    assert len(set(pids)) <= 2


async def test_to_wait_for_a_process_does_not_count_and_can_be_cancelled() -> None:
    processes = Processes(limit=1)
    first = asyncio.create_task(call(processes, process_jobs.dozes, seconds=1.5))
    second = asyncio.create_task(call(processes, process_jobs.pid, within=1.0))
    third = asyncio.create_task(call(processes, process_jobs.pid))
    fourth = asyncio.create_task(call(processes, process_jobs.pid))
    await asyncio.sleep(0)
    third.cancel()
    pids = await asyncio.gather(first, second, fourth)
    assert len(set(pids)) == 1
    assert third.cancelled()
    await processes.close()


@pytest.mark.parametrize("options", [{"limit": 0}, {"recycle_after": 0}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match=r"is a whole number of at least 1, or None, not 0"):
        Processes(**options)


async def test_a_process_is_replaced_after_so_many_calls() -> None:
    processes = Processes(limit=1, recycle_after=2)
    pids = [await call(processes, process_jobs.pid) for _ in range(5)]
    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3
    await eventually(lambda: not any(map(alive, pids[:4])))
    await processes.close()
    assert not alive(pids[4])


async def test_fifty_calls_with_deaths_leave_nothing_behind(processes: Processes) -> None:
    others = set(children())
    await asyncio.gather(*(call(processes, process_jobs.pid) for _ in range(4)))
    descriptors = len(os.listdir("/proc/self/fd"))
    targets = [process_jobs.crash if number % 5 == 0 else process_jobs.pid for number in range(50)]
    ended = await asyncio.gather(*(call(processes, target) for target in targets), return_exceptions=True)
    assert sum(isinstance(each, AttemptCrashed) for each in ended) == 10
    assert sum(isinstance(each, int) for each in ended) == 40
    assert len(processes._all) <= 2
    await processes.close()
    # multiprocessing keeps one that tracks what it shares.
    await eventually(lambda: len(set(children()) - others) <= 1, 10)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def children() -> list[str]:
    """The processes that this one has started and not yet forgotten, zombies included."""
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


PARENT = """
import asyncio, sys
from oban_sa.runner.concurrency.processes.pool import Processes
from oban_sa.workers import definition_of
from tests.runner import process_jobs, step_process_jobs
from tests.runner.concurrency.test_processes import fetched

async def main():
    job = fetched(process_jobs.linger.new(path=sys.argv[1]))
    await Processes().call(definition_of(process_jobs.linger), job)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_processes_end_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    path, program = tmp_path / "pid", tmp_path / "parent.py"
    program.write_text(PARENT)
    with process([sys.executable, str(program), str(path)]) as parent:
        pid = await written(path)
        parent.kill()
        await eventually(lambda: not alive(pid))


CARELESS = """
    calling = asyncio.create_task(Processes().call(definition_of(process_jobs.linger), job))
    while not os.path.exists(sys.argv[1]):
        await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    loop.stop()
    await asyncio.sleep(1)
"""


async def test_a_program_that_ends_without_closing_anything_does_not_wait_for_its_processes(tmp_path: Path) -> None:
    path, program = tmp_path / "pid", tmp_path / "parent.py"
    text = PARENT.replace("    await Processes().call(definition_of(process_jobs.linger), job)\n", CARELESS)
    text = text.replace("asyncio.run(main())", "asyncio.new_event_loop().run_until_complete(main())")
    program.write_text(text.replace("import asyncio, sys", "import asyncio, os, sys"))
    with process([sys.executable, str(program), str(path)]) as parent:
        assert await parent.ended() == 1
        assert "stopped before Future completed" in parent.output
    pid = await written(path)
    await eventually(lambda: not alive(pid))


async def test_a_program_without_a_guard_is_told_what_it_lacks(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT.replace('if __name__ == "__main__":\n    ', ""))
    with process([sys.executable, str(program), str(tmp_path / "pid")]) as parent:
        assert await parent.ended() == 1
        assert "a process for the job ended with exit code 1 before it was ready" in parent.output


# Logging


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="myapp.images")
    return caplog


async def test_what_a_process_logs_reaches_the_runner_s_handlers_and_names_its_job(
    processes: Processes, records: pytest.LogCaptureFixture
) -> None:
    await call(processes, process_jobs.logs)
    [record] = records.records
    assert (record.name, record.getMessage(), record.levelno) == ("myapp.images", "resized cat.png", logging.WARNING)
    facts: Any = record
    assert (facts.job_id, facts.worker, facts.queue, facts.attempt) == (7, "tests.runner.process_jobs.logs", "q", 1)
    assert facts.width == 100
    assert "lock" in facts.lock
    assert record.process != os.getpid()


async def test_levels_are_those_of_the_runner(processes: Processes, records: pytest.LogCaptureFixture) -> None:
    await call(processes, process_jobs.logs, level=logging.DEBUG)
    await call(processes, process_jobs.logs, level=logging.INFO)
    assert [record.levelno for record in records.records] == [logging.INFO]


async def test_a_traceback_crosses_as_text(processes: Processes, records: pytest.LogCaptureFixture) -> None:
    await call(processes, process_jobs.logs_an_error)
    assert "ZeroDivisionError: by nothing" in records.text
    assert "process_jobs.py" in records.text


async def test_what_is_logged_between_two_calls_arrives(
    processes: Processes, records: pytest.LogCaptureFixture
) -> None:
    await call(processes, process_jobs.logs_between_calls)
    await eventually(lambda: [record.getMessage() for record in records.records] == ["later"])


async def test_warnings_are_logged_where_the_runner_logs_them(
    processes: Processes, records: pytest.LogCaptureFixture
) -> None:
    logging.captureWarnings(True)
    try:
        await call(processes, process_jobs.warns)
    finally:
        logging.captureWarnings(False)
    assert [record.name for record in records.records] == ["py.warnings"]


@pytest.mark.parametrize("name", ["myapp.own", "myapp.apart"])
async def test_a_handler_that_is_set_up_on_both_sides_handles_a_record_once(
    processes: Processes, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        await call(processes, process_jobs.logs_by_a_handler, name=name, path=str(path))
    await eventually(lambda: path.exists() and path.read_text().splitlines() == [f"{os.getpid()} hello"] * 2)


async def test_a_handler_that_code_adds_itself_handles_what_it_logs(
    processes: Processes, records: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    pid = await call(processes, process_jobs.logs_by_a_handler_of_its_own, path=str(path))
    assert path.read_text() == f"{pid} hello\n"
    assert [record.getMessage() for record in records.records] == ["hello"]


async def test_an_application_that_sets_up_logging_cuts_nothing_off(records: pytest.LogCaptureFixture) -> None:
    processes = Processes(imports=["tests.runner.concurrency.sets_up_logging"])
    await call(processes, process_jobs.logs)
    assert [record.getMessage() for record in records.records] == ["resized cat.png"]
    await processes.close()


@pytest.mark.parametrize("target", [process_jobs.remembers, process_jobs.remembers_on_a_loop])
async def test_context_variables_of_one_job_are_not_there_for_the_next(target: Any) -> None:
    processes = Processes(limit=1)
    [(one, first), (other, second)] = [await call(processes, target, name=name) for name in ("Ann", "Bob")]
    assert one == other
    assert (first, second) == ("nobody", "nobody")
    await processes.close()
