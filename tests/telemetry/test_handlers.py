"""Events, those who listen to them, and the page that lists them."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oban_sa import telemetry
from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.telemetry import events as module
from oban_sa.telemetry import limits, steps, web

SOURCE = telemetry.Source(node="here")
START = telemetry.JobStart(runner=SOURCE, job_id=1, worker="w", queue="q", attempt=1, max_attempts=20)
STOP = telemetry.JobStop(
    runner=SOURCE,
    job_id=1,
    worker="w",
    queue="q",
    attempt=1,
    max_attempts=20,
    state=JobState.COMPLETED,
    duration=0.5,
)
CONNECTED = telemetry.NotifierConnected(runner=SOURCE)


@pytest.fixture
def attach() -> Iterator[Callable[..., Callable[[], None]]]:
    """`telemetry.attach`, undone when the test ends."""
    detaches: list[Callable[[], None]] = []

    def attach(handler: Callable[[Any], object], *events: type[telemetry.Event]) -> Callable[[], None]:
        detaches.append(telemetry.attach(handler, *events))
        return detaches[-1]

    yield attach
    for detach in detaches:
        detach()


def concrete() -> list[type[telemetry.Event]]:
    """Every event class of the library that others are not built on, in the order of the source."""
    found = [*vars(module).values(), *vars(limits).values(), *vars(steps).values(), *vars(web).values()]
    events = [each for each in found if isinstance(each, type) and issubclass(each, telemetry.Event)]
    return [each for each in dict.fromkeys(events) if each not in (telemetry.Event, telemetry.JobEvent)]


def test_only_the_events_asked_for_are_heard(attach: Callable[..., Any]) -> None:
    heard: list[telemetry.Event] = []
    attach(heard.append, telemetry.JobStop)
    telemetry.emit(START)
    telemetry.emit(STOP)
    assert heard == [STOP]


def test_a_base_class_stands_for_all_events_below_it(attach: Callable[..., Any]) -> None:
    jobs: list[telemetry.Event] = []
    everything: list[telemetry.Event] = []
    attach(jobs.append, telemetry.JobEvent)
    attach(everything.append)
    for event in (START, CONNECTED, STOP):
        telemetry.emit(event)
    assert jobs == [START, STOP]
    assert everything == [START, CONNECTED, STOP]


def test_nothing_is_heard_after_detaching(attach: Callable[..., Any]) -> None:
    heard: list[telemetry.Event] = []
    detach = attach(heard.append, telemetry.JobStart)
    telemetry.emit(START)
    detach()
    detach()
    telemetry.emit(START)
    assert heard == [START]


def test_one_handler_attached_twice_is_called_twice_and_detached_one_at_a_time(attach: Callable[..., Any]) -> None:
    heard: list[telemetry.Event] = []
    first = attach(heard.append, telemetry.JobStart)
    attach(heard.append, telemetry.JobStart)
    telemetry.emit(START)
    first()
    telemetry.emit(START)
    assert len(heard) == 3


def test_a_handler_attached_after_an_event_was_emitted_hears_the_next(attach: Callable[..., Any]) -> None:
    telemetry.emit(START)
    assert not telemetry.listening(telemetry.JobStart)
    heard: list[telemetry.Event] = []
    attach(heard.append, telemetry.JobStart)
    assert telemetry.listening(telemetry.JobStart)
    telemetry.emit(START)
    assert heard == [START]


def test_somebody_listens_only_to_what_was_asked_for(attach: Callable[..., Any]) -> None:
    assert not telemetry.listening(telemetry.JobStart)
    detach = attach(print, telemetry.JobEvent)
    assert telemetry.listening(telemetry.JobStart)
    assert not telemetry.listening(telemetry.RunnerStart)
    detach()
    assert not telemetry.listening(telemetry.JobStart)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_a_handler_that_raises_is_logged_once_and_harms_nothing(
    attach: Callable[..., Any], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def broken(_: telemetry.Event) -> None:
        raise error

    heard: list[telemetry.Event] = []
    attach(broken)
    attach(heard.append)
    with caplog.at_level(logging.ERROR):
        telemetry.emit(START)
        telemetry.emit(STOP)
    assert heard == [START, STOP]
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    assert "raised on oban.job.start" in caplog.text


def test_an_interrupt_during_a_handler_is_not_swallowed(attach: Callable[..., Any]) -> None:
    def interrupted(_: telemetry.Event) -> None:
        raise KeyboardInterrupt

    attach(interrupted)
    with pytest.raises(KeyboardInterrupt):
        telemetry.emit(START)


def test_a_handler_may_detach_itself(attach: Callable[..., Any]) -> None:
    heard: list[telemetry.Event] = []

    def once(event: telemetry.Event) -> None:
        heard.append(event)
        detach()

    detach = attach(once)
    telemetry.emit(START)
    telemetry.emit(START)
    assert heard == [START]


def test_a_coroutine_function_is_refused() -> None:
    async def later(_: telemetry.Event) -> None: ...

    with pytest.raises(InvalidOption, match="is a coroutine function, but events don't wait"):
        telemetry.attach(later)


def test_what_is_no_event_is_refused() -> None:
    unknown: Any = "oban.job.stop"
    with pytest.raises(InvalidOption, match=r"'oban\.job\.stop' is not a class of events"):
        telemetry.attach(print, unknown)


def test_attaching_in_one_thread_while_another_emits_loses_nothing(attach: Callable[..., Any]) -> None:
    stop = threading.Event()

    def emitting() -> None:
        while not stop.is_set():
            telemetry.emit(START)

    thread = threading.Thread(target=emitting)
    thread.start()
    try:
        for _ in range(200):
            heard: list[telemetry.Event] = []
            detach = attach(heard.append, telemetry.JobStart)
            telemetry.emit(START)
            assert heard
            detach()
    finally:
        stop.set()
        thread.join()


def test_every_event_is_frozen_and_has_a_name_of_its_own() -> None:
    events = concrete()
    assert len(events) >= 10
    assert len({event.name for event in events}) == len(events)
    for event in events:
        assert re.fullmatch(r"oban\.[a-z]+\.[a-z]+", event.name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.__new__(event).runner = SOURCE  # type: ignore[misc]


def test_the_documentation_lists_every_event_with_its_fields() -> None:
    page = Path(__file__).parents[2] / "docs" / "telemetry.md"
    listed = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `oban."):
            name, cls, _, fields = (cell.strip() for cell in line.strip("|").split("|"))
            listed.append((name.strip("`"), cls.strip("`"), re.findall(r"`(\w+)`", fields)))
    written = [
        (event.name, event.__name__, [each.name for each in dataclasses.fields(event) if each.name != "runner"])
        for event in concrete()
    ]
    assert listed == written


FIELDS: dict[str, Any] = {
    "runner": SOURCE,
    "job_id": 1,
    "worker": "w",
    "queue": "q",
    "attempt": 1,
    "max_attempts": 20,
}


def test_events_are_compared_and_shown_by_their_fields() -> None:
    one, same = (telemetry.JobIdle(**FIELDS, idle=1.0, job=job) for job in ("one", "another"))
    other = telemetry.JobIdle(**FIELDS, idle=2.0)
    assert (one == same, hash(one) == hash(same), one == other, one == 1) == (True, True, False, False)
    assert telemetry.NotifierConnected(runner=SOURCE) != telemetry.NotifierDeaf(runner=SOURCE)
    assert repr(other) == (
        f"JobIdle(runner={SOURCE!r}, job_id=1, worker='w', queue='q', attempt=1, max_attempts=20, queue_time=0.0, "
        "idle=2.0)"
    )
