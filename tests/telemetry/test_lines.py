"""A record as text and as JSON, to the byte: what was quick to write is as what was not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.service import logs
from oban_sa.telemetry import log, log_guard
from oban_sa.telemetry.lines import JSONLines, TextLines
from oban_sa.telemetry.sentences import sentence

SOURCE = telemetry.Source(node="host.1", name="Oban", schema="public")
JOB: dict[str, Any] = {
    "runner": SOURCE,
    "job_id": 42,
    "worker": "shop.Pay",
    "queue": "mailers",
    "attempt": 2,
    "max_attempts": 5,
}
STOP = telemetry.JobStop(**JOB, state=JobState.COMPLETED, duration=0.1234567, queue_time=0.25)
ODD = telemetry.JobStop(
    **{**JOB, "worker": "P\n\x7fé", "queue": "a\n\u202eb"}, state=JobState.SCHEDULED, duration=60.0, queue_time=3.0
)
FAILED = telemetry.JobException(
    **JOB,
    state=JobState.RETRYABLE,
    duration=2.0,
    retry_in=17.0,
    error=ValueError("no password in postgresql://u:secret@h/d"),
)


def of_event(event: telemetry.Event, **more: Any) -> logging.LogRecord:
    return record("oban_sa.job", "%s", sentence(event), event=event, **more)


def record(name: str, message: str, *arguments: object, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    made = logging.getLogger(name).makeRecord(name, level, "f.py", 1, message, arguments, None, "f", more)
    made.created = 1790000000.0625
    return made


FACTS = '"node":"host.1","name":"Oban","schema":"public","job_id":42'
COMPLETED = (
    '"level":"info","logger":"oban_sa.job","message":"job 42 Pay completed after 123 ms","event":"oban.job.stop",'
    f'{FACTS},"worker":"shop.Pay","queue":"mailers","attempt":2,"max_attempts":5,"queue_time":0.25,'
    '"state":"completed","duration":0.123457'
)
SNOOZED = (
    '"level":"info","logger":"oban_sa.job","message":"job 42 P\\\\n\\\\x7fé snoozed after 1 minute",'
    f'"event":"oban.job.stop",{FACTS},"worker":"P\\n\\u007fé","queue":"a\\n\\u202eb","attempt":2,"max_attempts":5,"queue_time":3.0,'
    '"state":"scheduled","duration":60.0'
)
ERROR = "ValueError: no password in postgresql://u:***@h/d"
RETRIED = (
    f'"level":"info","logger":"oban_sa.job","message":"job 42 Pay failed after 2 seconds: {ERROR}; next attempt in 17 '
    f'seconds","event":"oban.job.exception",{FACTS},"worker":"shop.Pay","queue":"mailers","attempt":2,"max_attempts":5,'
    f'"queue_time":0.0,"state":"retryable","duration":2.0,"error":"{ERROR}","retry_in":17.0'
)
LINES: dict[str, tuple[logging.LogRecord, str, str]] = {
    "plain": (of_event(STOP), "INFO    job 42 Pay completed after 123 ms  queue=mailers attempt=2/5", COMPLETED),
    "of a node": (
        of_event(STOP, schema="tenant\t1", node="a"),
        "INFO    job 42 Pay completed after 123 ms  queue=mailers attempt=2/5 schema=tenant\\t1 node=a",
        COMPLETED,
    ),
    "odd": (
        of_event(ODD),
        "INFO    job 42 P\\n\\x7fé snoozed after 1 minute  queue=a\\n\\u202eb attempt=2/5",
        SNOOZED,
    ),
    "failed": (
        of_event(FAILED),
        f"INFO    job 42 Pay failed after 2 seconds: {ERROR}; next attempt in 17 seconds  queue=mailers attempt=2/5",
        RETRIED,
    ),
    "of several lines": (
        record("shop\n", "one\r\n\ttwo\vthree\x7f\n", level=logging.ERROR, job_id=7, queue="q\n"),
        "ERROR   shop\\n: one  job_id=7 queue=q\\n\n    \ttwo\n    three\\x7f",
        '"level":"error","logger":"shop\\n","message":"one\\r\\n\\ttwo\\u000bthree\\u007f\\n","job_id":7,"queue":"q\\n"',
    ),
}


@pytest.mark.parametrize("which", LINES)
def test_a_record_is_written_so_to_the_byte(which: str) -> None:
    made, text, json = LINES[which]
    moment = datetime.fromtimestamp(made.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert TextLines().format(made) == f"{moment}.062 {text}"
    assert JSONLines().format(made) == f'{{"time":"2026-09-21T14:13:20.062Z",{json}}}'


@given(st.floats(min_value=-2e9, max_value=4e9))
@example(1790000000.9999996)
@example(1790000000.9995)
@example(0.0009999999)
@example(-1e-7)
@example(-1.25)
def test_a_record_has_the_moment_that_datetime_reads(created: float) -> None:
    made = record("shop", "hello")
    made.created = created
    shown = datetime.fromtimestamp(created).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    assert TextLines().format(made) == f"{shown} INFO    shop: hello"
    shown = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert f'"time":"{shown}"' in JSONLines().format(made)


def test_handlers_of_a_program_see_where_an_event_was_written_and_the_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oban_sa")
    detach = log.follow_events()
    telemetry.emit(STOP)
    detach()
    [made] = caplog.records
    assert (made.filename, made.module, made.funcName, made.pathname) == ("log.py", "log", "write", log.__file__)
    assert made.lineno > 1
    assert (made.name, made.levelname, made.msg, made.args) == ("oban_sa.job", "INFO", "%s", (sentence(STOP),))
    assert vars(made)["event"] is STOP


@pytest.mark.parametrize("buffered", ["by line", "by block"])
def test_each_line_is_out_before_the_next_one(unchanged_logging: None, buffered: str) -> None:
    raw = io.BytesIO()
    logs.configure(stream=io.TextIOWrapper(io.BufferedWriter(Kept(raw)), line_buffering=buffered == "by line"))
    try:
        for count in (1, 2):
            logging.getLogger("shop").warning("hello")
            assert raw.getvalue().count(b"\n") == count
    finally:
        log_guard.uninstall()


class Kept(io.RawIOBase):
    """A file that keeps what was written, also after it is closed."""

    def __init__(self, kept: io.BytesIO) -> None:
        self._write: Callable[[Any], int] = kept.write

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._write(bytes(data))


def test_an_event_can_be_about_a_job_that_was_never_stored() -> None:
    event = telemetry.JobStart.of(SOURCE, Job("shop.Pay", queue="mailers"))
    assert event.job_id is None
    assert (event.worker, event.queue) == ("shop.Pay", "mailers")
