"""Options of workers: which there are, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from oban_sa.errors import InvalidCron, InvalidOption, InvalidPeriod
from oban_sa.jobs.references import ref
from oban_sa.workers import Registry, Worker, definition_of, job, worker
from oban_sa.workers.options import Options


@pytest.mark.parametrize("decorator", [worker, job])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quue": "x"}, r"^@(worker|job) has no option 'quue'; did you mean 'queue'\?$"),
        ({"period": 60}, r"it belongs to unique jobs: unique=Unique\(period=\.\.\.\)$"),
        (
            {"each": 5},
            r'it belongs to the queue, .*: queues={"calls": Queue\(20, by="partition", each=5\)} at the runner',
        ),
        ({"rate": "1/s"}, r'Queue\(20, rate="60/minute"\)'),
        ({"zzz": "x"}, r"has no option 'zzz'; there are aliases, backoff, .*version$"),
        ({"schedule_in": 5}, r"'schedule_in': it belongs to one job; write \.(new|options)\("),
        ({"queue": ""}, "queue must not be blank"),
        ({"queue": "  "}, "queue must not be blank"),
        ({"queue": None}, "queue must be a string"),
        ({"queue": "q" * 128}, "queue must be at most 127 characters"),
        ({"max_attempts": 0}, "max_attempts must be greater than 0"),
        ({"max_attempts": "5"}, "max_attempts must be a whole number"),
        ({"priority": 10}, "priority must be between 0 and 9, got 10"),
        ({"priority": -1}, "priority must be between 0 and 9"),
        ({"priority": True}, "priority must be a whole number"),
        ({"tags": "mail"}, r"write tags=\['mail'\]"),
        ({"tags": 7}, "tags must be a list of strings"),
        ({"meta": [1]}, "meta must be a dict"),
        ({"meta": {"a": {1}}}, "meta.a is a set"),
        ({"meta": {"a": ref(object())}}, "jobs belong to many sessions"),
        ({"executor": "threads"}, r"executor 'threads' is unknown; did you mean 'thread'\?"),
        ({"executor": 7}, "executor 7 is unknown; write one of loop, thread, process"),
        ({"registry": 7}, "registry is a Registry, not 7"),
        ({"timeout": 0}, "would end every attempt at once"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(decorator: Any, options: dict[str, Any], message: str) -> None:
    class Made:
        async def process(self) -> None: ...

    async def made() -> None: ...

    with pytest.raises(InvalidOption, match=message):
        decorator(**options)(Made if decorator is worker else made)


def test_an_option_of_one_job_is_shown_where_it_goes() -> None:
    with pytest.raises(InvalidOption, match=r"write \.new\(\.\.\., schedule_in=\.\.\.\)$"):
        worker(schedule_in=5)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"write \.options\(schedule_in=\.\.\.\)\.new\(\.\.\.\)$"):
        job(schedule_in=5)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"timeout": -1}, InvalidPeriod, "timeout: "),
        ({"timeout": "soon"}, InvalidPeriod, "timeout: .*soon"),
        ({"backoff": float("nan")}, InvalidPeriod, "backoff: "),
        ({"backoff": True}, InvalidPeriod, "backoff: "),
        ({"cron": "99 * * * *"}, InvalidCron, "99"),
        ({"cron": [{"expression": "@daily", "timezon": "UTC"}]}, InvalidOption, "timezon"),
    ],
)
def test_spans_and_crons_are_refused_as_such(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        worker(**options)


def test_options_are_normalized() -> None:
    options = Options.read(
        {"tags": {" B", "a", "b"}, "timeout": "1 minute", "backoff": timedelta(hours=1), "executor": "loop"}
    )
    assert (options.tags, options.timeout, options.backoff, options.executor) == (("a", "b"), 60, 3600, "loop")


def test_a_cron_entry_is_kept_for_the_scheduler() -> None:
    @worker(registry=Registry(), cron=["0 9 * * MON-FRI", {"expression": "@daily", "timezone": "Europe/Berlin"}])
    class Report:
        async def process(self) -> None: ...

    first, second = definition_of(Report).options.cron
    assert (first.expression, second.expression, second.timezone) == ("0 9 * * MON-FRI", "@daily", "Europe/Berlin")
    name = definition_of(Report).name
    assert first.of(name).worker == name
    assert first.of(name).name != second.of(name).name != ""


def test_a_cron_entry_whose_args_do_not_fit_is_refused() -> None:
    entry = {"expression": "@daily", "args": {"report_id": 1}}

    @job(registry=Registry(), cron=entry)
    def fits(report_id: int, fmt: str = "csv") -> None: ...

    with pytest.raises(InvalidOption, match=r"cron '@daily' of .*lacks\(\): args lacks 'report_id'"):

        @job(registry=Registry(), cron="@daily")
        def lacks(report_id: int) -> None: ...

    with pytest.raises(InvalidOption, match=r"args has 'report_id'"):

        @worker(registry=Registry(), cron=[entry])
        class Typed(Worker[Args]):
            async def process(self, args: Args) -> None: ...


@dataclass
class Args:
    user_id: int


async def test_cron_args_of_a_type_defined_later_are_left_to_the_first_tick() -> None:
    @worker(registry=Registry(), cron=[{"expression": "@daily", "args": {"user_id": 1}}])
    class Report:
        async def process(self, args: DefinedLater) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert definition_of(Report).options.cron[0].args == {"user_id": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eta", r"write scheduled_at=datetime\(\.\.\., tzinfo=UTC\) or schedule_in=60$"),
        ("countdown", r"write schedule_in=60 or scheduled_at="),
        ("retry", "write max_attempts, which counts the first attempt too$"),
        ("queue_name", "write queue$"),
        ("soft_time_limit", "write timeout, .*, where the worker is decorated$"),
        ("expires", r"jobs don't expire: return Cancel\("),
        ("quue", "did you mean 'queue'"),
    ],
)
def test_an_option_of_another_queue_is_answered_with_ours(name: str, words: str) -> None:
    @worker(registry=Registry())
    class Send:
        def process(self) -> None: ...

    @job(registry=Registry())
    def send(to: str) -> None: ...

    with pytest.raises(InvalidOption, match=rf"^\S*Send\.new\(\) has no option '{name}'; {words}"):
        Send.new({}, **{name: 1})  # type: ignore[attr-defined]
    with pytest.raises(InvalidOption, match=rf"send\.options\(\) has no option '{name}'; {words}"):
        send.options(**{name: 1})  # type: ignore[call-arg]


def test_an_option_of_another_queue_among_arguments_is_told_where_it_goes() -> None:
    @job(registry=Registry())
    def send(to: str, *, delay: int = 0) -> None: ...

    with pytest.raises(TypeError, match=r"unexpected.*'eta'; write scheduled_at=.*before: \.options\(\.\.\.\)\.new"):
        send.new("x", eta=1)  # type: ignore[call-arg]
    assert send.new("x", delay=1).args == {"to": "x", "delay": 1}
    with pytest.raises(
        InvalidOption, match=r"@job has no option 'countdown'; write schedule_in=60 .* where a job is made"
    ):
        job(countdown=5)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="@worker has no option 'retry_delay'; write backoff, the seconds"):
        worker(retry_delay=5)  # type: ignore[call-overload]
