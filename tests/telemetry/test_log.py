"""What the runner command writes to its log, as a person and as a machine read it."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.orm.attributes import set_committed_value

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.errors import InvalidArguments, WorkerNotFound
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.runner.runner import logger
from oban_sa.service import logs
from oban_sa.telemetry import log, log_guard
from oban_sa.telemetry.sentences import sentence
from oban_sa.workers.current import running
from tests.hostile import HOSTILE, Unprintable, raised

SOURCE = telemetry.Source(node="host.1")
FACTS: dict[str, Any] = {
    "runner": SOURCE,
    "job_id": 42,
    "worker": "shop.jobs.SendWelcome",
    "queue": "mailers",
    "attempt": 2,
    "max_attempts": 5,
}
STOP = telemetry.JobStop(**FACTS, state=JobState.COMPLETED, duration=0.1234567, queue_time=0.25)


@pytest.fixture
def configured() -> Iterator[Callable[..., io.StringIO]]:
    """Configure logging and follow events, as the command does, and put everything back afterwards."""
    names = ["oban_sa", "shop"]
    root = logging.getLogger()
    before = (root.handlers[:], root.level, {name: logging.getLogger(name).level for name in names})
    detaches: list[Callable[[], None]] = []

    def configure(level: str = "info", log_format: str = "text", **options: Any) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(level, log_format, stream, **options)
        detaches.append(log.follow_events())
        return stream

    yield configure
    for detach in detaches:
        detach()
    log_guard.uninstall()
    logging.captureWarnings(False)
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, number in levels.items():
        logging.getLogger(name).setLevel(number)


def failed(state: JobState = JobState.RETRYABLE, retry_in: float | None = 17.0) -> telemetry.JobException:
    try:
        raise ValueError("no such user\nand more about it")
    except ValueError as error:
        return telemetry.JobException(**FACTS, state=state, duration=2.0, error=error, retry_in=retry_in)


def lines(stream: io.StringIO) -> list[str]:
    """The lines without their times."""
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", "", line) for line in stream.getvalue().splitlines()]


def test_a_completed_job_is_one_line_a_person_can_read(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    telemetry.emit(STOP)
    assert lines(stream) == ["INFO    job 42 SendWelcome completed after 123 ms  queue=mailers attempt=2/5"]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO", stream.getvalue())


def test_a_completed_job_is_one_object_a_machine_can_read(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json")
    telemetry.emit(STOP)
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "info",
        "logger": "oban_sa.job",
        "message": "job 42 SendWelcome completed after 123 ms",
        "event": "oban.job.stop",
        "node": "host.1",
        "name": "Oban",
        "schema": "public",
        "job_id": 42,
        "worker": "shop.jobs.SendWelcome",
        "queue": "mailers",
        "attempt": 2,
        "max_attempts": 5,
        "queue_time": 0.25,
        "state": "completed",
        "duration": 0.123457,
    }


def test_a_failed_job_is_a_warning_with_its_traceback(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    telemetry.emit(failed())
    first, *rest = lines(stream)
    assert first == (
        "WARNING job 42 SendWelcome failed after 2 seconds: ValueError: no such user; next attempt in 17 seconds"
        "  queue=mailers attempt=2/5"
    )
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    and more about it"


def test_a_failed_job_is_still_one_line_of_json(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json")
    telemetry.emit(failed())
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["error"] == "ValueError: no such user"
    assert found["traceback"].startswith("Traceback (most recent call last):")
    assert (found["state"], found["retry_in"], found["level"]) == ("retryable", 17.0, "warning")


def test_a_discarded_job_is_an_error(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    telemetry.emit(failed(JobState.DISCARDED, None))
    assert lines(stream)[0].startswith(
        "ERROR   job 42 SendWelcome failed after 2 seconds: ValueError: no such user; disc"
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [(JobState.SCHEDULED, "snoozed"), (JobState.AVAILABLE, "given back"), (JobState.CANCELLED, "cancelled")],
)
def test_other_ends_have_a_word_of_their_own(
    configured: Callable[..., io.StringIO], state: JobState, words: str
) -> None:
    stream = configured()
    telemetry.emit(telemetry.JobStop(**FACTS, state=state, duration=1.0))
    assert lines(stream)[0].startswith(f"INFO    job 42 SendWelcome {words} after 1 second")


def test_the_start_of_a_job_is_said_only_at_debug_and_costs_nothing_otherwise(
    configured: Callable[..., io.StringIO],
) -> None:
    configured("info")
    assert not telemetry.listening(telemetry.JobStart)
    stream = configured("debug")
    telemetry.emit(telemetry.JobStart(**FACTS, queue_time=0.5))
    assert lines(stream)[0].startswith("DEBUG   job 42 SendWelcome started after 500 ms in the queue")


def test_a_part_that_fails_again_and_again_is_told_of_in_few_lines(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    for attempt in range(1, 101):
        telemetry.emit(
            telemetry.RunnerRetry(
                runner=SOURCE, part="stager", attempt=attempt, retry_in=15.0, error=ValueError("odd\nvery")
            )
        )
    telemetry.emit(telemetry.RunnerRecover(runner=SOURCE, part="stager", attempts=100, duration=90.0))
    told = lines(stream)
    assert told[0] == "WARNING stager failed: ValueError: odd; trying again in 15 seconds"
    assert told[-1] == "INFO    stager works again after 100 failures in 1 min 30 s"
    assert len(told) == 6


def test_a_database_that_is_away_is_not_told_of_by_every_part(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    error = ConnectionRefusedError("no one there")
    for attempt in range(1, 101):
        for part in ("stager", "queue default", "leader"):
            telemetry.emit(
                telemetry.RunnerRetry(
                    runner=SOURCE, part=part, attempt=attempt, retry_in=15.0, error=error, database_away=True
                )
            )
        telemetry.emit(telemetry.NotifierDisconnected(runner=SOURCE, error=error, retry_in=15.0))
    for part in ("stager", "queue default", "leader"):
        telemetry.emit(telemetry.RunnerRecover(runner=SOURCE, part=part, attempts=100, duration=90.0))
    telemetry.emit(telemetry.NotifierConnected(runner=SOURCE))
    telemetry.emit(telemetry.NotifierDisconnected(runner=SOURCE, error=error, retry_in=1.0))
    assert lines(stream) == [
        "WARNING stopped listening: ConnectionRefusedError: no one there; polling, and trying again in 15 seconds",
        "INFO    listening for new jobs",
        "WARNING stopped listening: ConnectionRefusedError: no one there; polling, and trying again in 1 second",
    ]


def test_at_level_error_a_discarded_job_is_told_of_and_a_retried_one_is_not(
    configured: Callable[..., io.StringIO],
) -> None:
    stream = configured("error")
    telemetry.emit(failed())
    telemetry.emit(failed(JobState.DISCARDED, None))
    assert [line[:7] for line in lines(stream) if line.startswith(("ERROR", "WARN"))] == ["ERROR  "]


def test_every_event_has_a_sentence_of_its_own_and_a_level() -> None:
    events: dict[type[telemetry.Event], telemetry.Event] = {
        type(event): event
        for event in [
            telemetry.JobStart(**FACTS),
            STOP,
            failed(),
            telemetry.JobStale(**FACTS, state=JobState.COMPLETED),
            telemetry.JobIdle(**FACTS, idle=31.0),
            telemetry.StepStart(**FACTS, step="charge"),
            telemetry.StepStop(**FACTS, step="charge", duration=0.2),
            telemetry.Suspended(**FACTS, signal="approval", delay=86400.0),
            telemetry.SignalReceived(**FACTS, signal="approval"),
            telemetry.StepChanged(**FACTS, step="charge", recorded="charge", called="bill"),
            telemetry.StepsUnused(**FACTS, steps=("charge", "ship")),
            telemetry.WorkerUnknown(runner=SOURCE, queue="q", worker="w", version=None, error=WorkerNotFound("x")),
            telemetry.ProducerFetch(runner=SOURCE, queue="q", demand=2, count=1, duration=0.1),
            telemetry.ProducerAck(runner=SOURCE, queue="q", count=2, stale=1, duration=0.1),
            telemetry.ProducerLost(runner=SOURCE, queue="q"),
            telemetry.UniqueConflict(
                runner=SOURCE, worker="w", queue="q", job_id=7, state=JobState.AVAILABLE, replaced=("args",)
            ),
            telemetry.RateSpent(runner=SOURCE, queue="q", available_in=3.0),
            telemetry.RateAvailable(runner=SOURCE, queue="q"),
            telemetry.SequenceHalted(runner=SOURCE, queue="q", key="17", job_id=7, worker="w"),
            telemetry.SequenceResumed(runner=SOURCE, queue="q", key="17"),
            telemetry.StagerStage(runner=SOURCE, count=2, queues=("q",), duration=0.1),
            telemetry.JobsEnqueued(runner=SOURCE, queue="q", worker="shop.W", count=2),
            telemetry.SettlerSettle(runner=SOURCE, lanes=(3,), count=2, released=1, cancelled=0, closed=1, duration=1),
            telemetry.LeaderElection(runner=SOURCE, leader=True),
            telemetry.LifelineRescue(runner=SOURCE, count=2, discarded=1, job_ids=(1, 2), duration=0.1),
            telemetry.PrunerPrune(runner=SOURCE, count=2, completed=2, duration=0.1),
            telemetry.SchedulerTick(runner=SOURCE, at=datetime.now(UTC), count=2, skipped=1, duration=0.1),
            telemetry.NotifierConnected(runner=SOURCE),
            telemetry.NotifierDisconnected(runner=SOURCE, error=OSError("x"), retry_in=1.0),
            telemetry.NotifierDeaf(runner=SOURCE),
            telemetry.RunnerStart(runner=SOURCE, queues={"q": 1}),
            telemetry.RunnerStopping(runner=SOURCE, running=1, grace=15.0),
            telemetry.RunnerStop(runner=SOURCE, duration=90.0, given_back=2),
            telemetry.RunnerRetry(runner=SOURCE, part="p", attempt=1, retry_in=1.0, error=OSError("x")),
            telemetry.RunnerRecover(runner=SOURCE, part="p", attempts=1, duration=1.0),
            telemetry.RunnerLocked(runner=SOURCE, pid=7, state="idle in transaction", held_for=9.0, query="SELECT 1"),
            telemetry.RunnerLag(runner=SOURCE, lag=2.0, place="jobs.py:3", job_id=1, worker="w"),
            telemetry.WebAction(runner=SOURCE, user="ada", action="retry", allowed=True, job_ids=(1,), count=1),
        ]
    }
    known = {each for each in vars(telemetry).values() if isinstance(each, type) and issubclass(each, telemetry.Event)}
    assert set(events) == known - {telemetry.Event, telemetry.JobEvent} == set(log._LEVELS)
    sentences = {event.name: sentence(event) for event in events.values()}
    assert len(set(sentences.values())) == len(sentences)
    for name, said in sentences.items():
        assert said != name
        assert "\n" not in said


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_password_of_a_url_reaches_the_log(configured: Callable[..., io.StringIO], log_format: str) -> None:
    stream = configured(log_format=log_format)
    url = "postgresql://u:secret@h/d?password=secret"
    logging.getLogger("oban_sa.runner").warning("lost %s", url, extra={"url": url})
    try:
        raise OSError(f"can't reach {url}")
    except OSError:
        logging.getLogger("shop").exception("oh")
    telemetry.emit(telemetry.NotifierDisconnected(runner=SOURCE, error=OSError(url), retry_in=1.0))
    assert "secret" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 4


def test_what_a_worker_logs_says_which_job_it_was(configured: Callable[..., io.StringIO]) -> None:
    job = Job(worker="shop.jobs.SendWelcome", queue="mailers", id=7, attempt=3)
    for log_format in ("text", "json"):
        stream = configured(log_format=log_format)
        with running(job):
            logging.getLogger("shop.mail").info("sending", extra={"to": "ada"})
        logging.getLogger("shop.mail").info("outside")
        inside, outside = stream.getvalue().splitlines()
        if log_format == "json":
            assert json.loads(inside)["job_id"] == 7
            assert json.loads(inside)["to"] == "ada"
            assert "job_id" not in json.loads(outside)
        else:
            assert inside.endswith("shop.mail: sending  job_id=7 worker=shop.jobs.SendWelcome queue=mailers attempt=3")
            assert outside.endswith("shop.mail: outside")


def test_odd_extras_do_not_cost_the_line(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json")
    logger = logging.getLogger("shop")
    logger.info("odd", extra={"big": 2**70})
    logger.info("odder", extra={"surrogate": "\ud800"})
    logger.info("oddest", extra={"thing": object(), "table": {1: {2, 3}}})
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["odd", "odder", "oddest"]


def test_below_info_only_the_library_and_the_users_modules_speak(configured: Callable[..., io.StringIO]) -> None:
    stream = configured("debug", verbose=("shop.jobs",))
    for name in ("oban_sa.stager", "shop.mail", "sqlalchemy.engine", "asyncio"):
        logging.getLogger(name).debug("hello")
    assert len(lines(stream)) == 2


def test_warnings_of_python_are_logged(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in stream.getvalue()


def test_only_the_command_configures_logging() -> None:
    library = logging.getLogger("oban_sa")
    assert library.handlers == []
    assert library.level == logging.NOTSET


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_that_came_from_another_process_is_shown(
    configured: Callable[..., io.StringIO], log_format: str
) -> None:
    stream = configured(log_format=log_format)
    crossed = {"name": "shop", "levelno": logging.ERROR, "levelname": "ERROR", "msg": "no luck", "exc_text": "Trace"}
    logging.getLogger("shop").handle(logging.makeLogRecord(crossed))
    assert stream.getvalue().endswith("no luck\n    Trace\n" if log_format == "text" else '"traceback":"Trace"}\n')


def test_one_of_several_runners_names_its_node_in_each_line(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(node="web.2")
    telemetry.emit(STOP)
    logging.getLogger("oban_sa.runner").info("hello")
    assert lines(stream) == [
        "INFO    job 42 SendWelcome completed after 123 ms  queue=mailers attempt=2/5 node=web.2",
        "INFO    hello  node=web.2",
    ]


def test_one_of_several_runners_names_its_node_in_json(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json", node="web.2")
    logging.getLogger("oban_sa.runner").info("hello")
    assert '"node":"web.2"' in stream.getvalue()


def test_what_a_row_says_wrongly_is_logged_without_a_traceback(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    try:
        raise InvalidArguments("welcome: args.user_id must be a whole number, not 'x'", path="args.user_id")
    except InvalidArguments as raised:
        error = raised
    event = telemetry.JobException(**FACTS, state=JobState.RETRYABLE, duration=2.0, error=error, retry_in=17.0)
    telemetry.emit(event)
    assert "Traceback" in stream.getvalue()
    stream.truncate(0)
    error.traced = False
    telemetry.emit(event)
    assert "Traceback" not in stream.getvalue()
    assert "InvalidArguments: welcome: args.user_id must be a whole number, not 'x'" in stream.getvalue()


# What others wrote


FORGED = "2026-01-01 00:00:00.000 INFO    job 1 Pay completed after 1 ms  queue=default attempt=1/20"
"""A line as the log has them, which nothing that is logged may put at the left edge."""

POISON = (
    f"a\n{FORGED}\r\n{FORGED}\r{FORGED}\u2028{FORGED}\x85{FORGED}\x0b{FORGED}\x1b[2J\x1b]0;x\x07\x9b31m\u202e\0\ud800z"
)


def is_safe(text: str) -> bool:
    """Whether a terminal only writes it: no controls, no marks of direction, and it can be encoded."""
    odd = [each for each in text if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") and each not in "\n\t"]
    return not odd and "\u202e" not in text and bool(text.encode())


def poisoned_events() -> list[telemetry.Event]:
    facts = FACTS | {"worker": f"shop.{POISON}", "queue": POISON}
    source = telemetry.Source(node=POISON, name=POISON, schema=POISON)
    error = raised(ValueError(POISON))
    return [
        telemetry.JobStop(**facts, state=JobState.COMPLETED, duration=1.0),
        telemetry.JobException(**facts, state=JobState.RETRYABLE, duration=1.0, error=error, retry_in=1.0),
        telemetry.JobStale(**facts, state=JobState.COMPLETED),
        telemetry.RunnerStart(runner=source, queues={POISON: 1}),
        telemetry.RunnerRetry(runner=source, part=POISON, attempt=1, retry_in=1.0, error=error),
        telemetry.NotifierDisconnected(runner=source, error=error, retry_in=1.0),
    ]


def log_poison() -> None:
    for event in poisoned_events():
        telemetry.emit(event)
    logger = logging.getLogger("shop")
    with running(Job(worker="shop.jobs", queue="mailers", id=7, attempt=3)) as job:
        set_committed_value(job, "worker", POISON)  # as rows of strangers have it
        logger.info(POISON, extra={"tags": [POISON], "node": POISON})
    logger.info("%s", POISON, stack_info=True, exc_info=raised(ValueError(POISON)))
    crossed = {"name": POISON, "levelno": 40, "levelname": POISON, "msg": POISON, "exc_text": POISON, "node": POISON}
    logging.getLogger("shop").handle(logging.makeLogRecord(crossed))


def test_nothing_that_is_logged_forges_a_line_or_drives_the_terminal(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(schemas=True)
    log_poison()
    text = stream.getvalue()
    assert is_safe(text)
    records = [line for line in text.splitlines() if not line.startswith("    ")]
    assert len(records) == len(poisoned_events()) + 3
    assert not [line for line in records if line.startswith(FORGED)]
    assert "\\x1b[2J" in text


def test_nothing_that_is_logged_breaks_a_line_of_json(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json", schemas=True)
    log_poison()
    text = stream.getvalue()
    assert is_safe(text)
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == len(poisoned_events()) + 3
    assert found[0]["worker"].startswith("shop.a\n2026-01-01")


def test_lines_of_a_message_belong_to_its_record(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    logging.getLogger("shop").info("one\n\ttwo\nthree\n")
    assert lines(stream) == ["INFO    shop: one", "    \ttwo", "    three"]


def test_the_sentence_of_an_event_is_one_line_for_the_loggers_of_a_program_too() -> None:
    for event in poisoned_events():
        assert is_safe(sentence(event))
        assert len(sentence(event).splitlines()) == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("oddity", HOSTILE)
def test_a_failed_attempt_is_logged_whatever_was_raised(
    configured: Callable[..., io.StringIO], log_format: str, oddity: str
) -> None:
    name, make = HOSTILE[oddity]
    stream = configured(log_format=log_format)
    event = telemetry.JobException(**FACTS, state=JobState.DISCARDED, duration=2.0, error=raised(make()))
    telemetry.emit(event)
    text = stream.getvalue()
    assert is_safe(text)
    assert f"job 42 SendWelcome failed after 2 seconds: {name}" in text
    assert "in raised" in text or oddity == "a huge text"
    assert len(text) < 150_000
    if log_format == "json":
        [found] = map(json.loads, text.splitlines())
        assert found["error"].startswith(name)
    else:
        assert [line for line in text.splitlines()[1:] if not line.startswith("    ")] == []


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("oddity", HOSTILE)
def test_what_a_worker_logs_of_an_exception_is_logged(
    configured: Callable[..., io.StringIO], log_format: str, oddity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = HOSTILE[oddity]
    stream = configured(log_format=log_format)
    error = raised(make())
    trace = (type(error), error, exceptions.traceback_of(error))
    logging.getLogger("shop").error("no luck: %s", error, exc_info=trace, extra={"cause": error, "all": [error]})
    assert "no luck" in stream.getvalue()
    assert name in stream.getvalue()
    assert capsys.readouterr().err == ""  # where logging tells of what it couldn't log


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_message_whose_parts_do_not_fit_is_logged_with_its_parts(
    configured: Callable[..., io.StringIO], log_format: str
) -> None:
    stream = configured(log_format=log_format)
    logging.getLogger("shop").info("%d of %d", "three")
    assert "'%d of %d', 'three' (this could not be put together: TypeError:" in stream.getvalue()


def test_extras_that_are_no_json_leave_the_others_as_they_are(configured: Callable[..., io.StringIO]) -> None:
    stream = configured(log_format="json")
    circle: list[Any] = []
    circle.append(circle)
    odd = {"circle": circle, "big": 2**70, "huge": 10**5000, "text": "\ud800", "nan": float("nan"), "fine": [1, "a"]}
    logging.getLogger("shop").info("odd", extra={**odd, "broken": Unprintable(), "\ud800": 1})
    [line] = stream.getvalue().splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert (found["big"], found["text"], found["nan"], found["fine"]) == (2**70, "\\ud800", None, [1, "a"])
    assert found["broken"] == "<str() of this Unprintable failed>"
    assert found["huge"] == "<str() of this int failed>"
    assert found["circle"] == "[[...]]"
    assert found["\\ud800"] == 1


def test_a_handler_without_a_repr_that_raises_is_told_of(configured: Callable[..., io.StringIO]) -> None:
    class Handler:
        def __call__(self, event: telemetry.Event) -> None:
            raise Unprintable

        def __repr__(self) -> str:
            raise ValueError

    stream = configured()
    detach = telemetry.attach(Handler(), telemetry.JobStop)
    telemetry.emit(STOP)
    detach()
    assert "the telemetry handler <repr() of this Handler failed> raised on oban.job.stop" in stream.getvalue()


def test_what_the_runner_says_of_others_stays_on_its_line_in_the_log_of_a_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger.warning("queue %s is started, %d jobs at once", f"a\n{FORGED}\x1b[2J", 7)
    logger.warning("no argument, %%s")
    assert [record.getMessage() for record in caplog.records] == [
        f"queue a\\n{FORGED}\\x1b[2J is started, 7 jobs at once",
        "no argument, %%s",
    ]


@pytest.mark.parametrize("state", [*JobState])
def test_the_line_of_an_attempt_says_which_job_it_was_and_what_became_of_it(
    configured: Callable[..., io.StringIO], state: JobState
) -> None:
    kind: Any = telemetry.JobException if state in ("retryable", "discarded") else telemetry.JobStop
    words = {
        "scheduled": "snoozed",
        "available": "given back",
        "retryable": "failed after 2 seconds: unknown error; next attempt in 9 seconds",
        "discarded": "failed after 2 seconds: unknown error; discarded",
    }.get(state, str(state))
    more = {"retry_in": 9.0} if state == "retryable" else {}
    event = kind(**FACTS, state=state, duration=2.0, **more)
    stream = configured()
    telemetry.emit(event)
    [line] = lines(stream)
    for part in ("job 42 SendWelcome", words, "after 2 seconds", "queue=mailers", "attempt=2/5"):
        assert part in line
    stream = configured(log_format="json")
    telemetry.emit(event)
    found = json.loads(stream.getvalue().splitlines()[0])  # both follow
    facts = {key: found[key] for key in ("job_id", "worker", "queue", "attempt", "duration", "state")}
    assert facts == {
        "job_id": 42,
        "worker": "shop.jobs.SendWelcome",
        "queue": "mailers",
        "attempt": 2,
        "duration": 2.0,
        "state": str(state),
    }


def test_a_rescue_says_which_jobs_it_was_about() -> None:
    def told(count: int) -> str:
        ids = tuple(range(1, count + 1))
        return sentence(telemetry.LifelineRescue(runner=SOURCE, count=count, discarded=1, job_ids=ids, duration=0.1))

    assert told(2) == "jobs rescued from dead nodes: 2, 1 of them discarded (1, 2)"
    assert told(12).endswith("(1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more)")


def test_of_an_unknown_worker_one_line_tells_and_none_for_each_job(configured: Callable[..., io.StringIO]) -> None:
    stream = configured()
    about = {"runner": SOURCE, "queue": "mail", "worker": "shop.Send"}
    attempt = {"attempt": 1, "max_attempts": 20, "state": JobState.AVAILABLE, "duration": 0.1}
    telemetry.emit(telemetry.WorkerUnknown(**about, version=2, error=WorkerNotFound("import it")))
    for job_id in (1, 2):
        telemetry.emit(telemetry.JobStop(**about, **attempt, job_id=job_id))
    telemetry.emit(telemetry.JobStop(**{**about, "queue": "other"}, **attempt, job_id=3))
    told, other = lines(stream)
    assert told.startswith("WARNING ") and told.endswith(
        "queue mail has jobs of shop.Send with args of version 2, which this program does not know (import it); "
        "they spend no attempt here and are left to a program that does"
    )
    assert "job 3 Send given back after 100 ms" in other
