"""Events as lines of the loggers `oban_sa.job`, `oban_sa.producer` and so on, which the program configures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.jobs.hidden import hides
from oban_sa.jobs.states import JobState
from oban_sa.telemetry import log_guard
from oban_sa.telemetry.sentences import sentence

_LEVELS: Final[dict[type[telemetry.Event], int]] = {
    telemetry.JobsEnqueued: logging.DEBUG,
    telemetry.JobStart: logging.DEBUG,
    telemetry.JobStop: logging.INFO,
    telemetry.JobException: logging.ERROR,  # a warning while attempts are left
    telemetry.JobStale: logging.WARNING,
    telemetry.JobIdle: logging.DEBUG,  # the runner's own logger says what to do
    telemetry.StepStart: logging.DEBUG,
    telemetry.StepStop: logging.DEBUG,
    telemetry.StepChanged: logging.WARNING,
    telemetry.StepsUnused: logging.WARNING,
    telemetry.Suspended: logging.DEBUG,
    telemetry.SignalReceived: logging.DEBUG,
    telemetry.WorkerUnknown: logging.WARNING,
    telemetry.ProducerFetch: logging.DEBUG,
    telemetry.ProducerAck: logging.DEBUG,
    telemetry.ProducerLost: logging.DEBUG,  # the producer's own logger tells more
    telemetry.UniqueConflict: logging.DEBUG,
    telemetry.RateSpent: logging.DEBUG,
    telemetry.RateAvailable: logging.DEBUG,
    telemetry.SequenceHalted: logging.WARNING,
    telemetry.SequenceResumed: logging.INFO,
    telemetry.StagerStage: logging.DEBUG,
    telemetry.SettlerSettle: logging.DEBUG,
    telemetry.LeaderElection: logging.INFO,
    telemetry.LifelineRescue: logging.WARNING,
    telemetry.PrunerPrune: logging.INFO,
    telemetry.SchedulerTick: logging.DEBUG,
    telemetry.NotifierConnected: logging.INFO,
    telemetry.NotifierDisconnected: logging.WARNING,
    telemetry.NotifierDeaf: logging.DEBUG,  # the notifier's own logger says what to do
    telemetry.RunnerStart: logging.INFO,
    telemetry.RunnerStopping: logging.INFO,
    telemetry.RunnerStop: logging.INFO,
    telemetry.RunnerRetry: logging.WARNING,
    telemetry.RunnerRecover: logging.INFO,
    telemetry.RunnerLocked: logging.DEBUG,  # the runner's own logger names the session, and what it ran
    telemetry.RunnerLag: logging.DEBUG,  # the watch's own logger said so while it lasted
    telemetry.WebAction: logging.DEBUG,  # the dashboard's own logger has written it
}


def follow_events() -> Callable[[], None]:
    """Write the runner's events to the loggers `oban_sa.job`, `oban_sa.producer` and so on; returns the way to stop it.

    Events below the level of their logger are not listened to, so that they cost nothing.
    """
    return _followers.join(asked=True)


def follow_events_of_runners() -> Callable[[], None]:
    """Do the same for a runner inside of a program: one writes for all, and none where the program asked for it."""
    return _followers.join(asked=False)


class _Followers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._runners = 0
        self._detach: Callable[[], None] | None = None

    def join(self, *, asked: bool) -> Callable[[], None]:
        with self._lock:
            if asked:
                self._asked += 1
                detach = _attach()
            else:
                self._runners += 1
                if self._detach is None and not self._asked:
                    self._detach = _attach()
                detach = None
        left = False

        def leave() -> None:
            nonlocal left
            with self._lock:
                if left:
                    return
                left = True
                if detach is not None:
                    self._asked -= 1
                    detach()
                    return
                self._runners -= 1
                if self._runners == 0 and self._detach is not None:
                    self._detach()
                    self._detach = None

        return leave


_followers: Final = _Followers()


def _attach() -> Callable[[], None]:
    heard = [event for event, level in _LEVELS.items() if _logger(event.name).isEnabledFor(level)]
    return telemetry.attach(_Story().write, *heard) if heard else lambda: None


class _Story:
    """Writes events, telling of each trouble when it begins and when it ends and not all the time between."""

    def __init__(self) -> None:
        self._told: set[tuple[telemetry.Source, str]] = set()
        self._unknown: set[tuple[telemetry.Source, str, str]] = set()

    def write(self, event: telemetry.Event) -> None:
        level = self._level(event)
        logger = _logger(event.name)
        if level and log_guard.drowned(logger):
            log_guard.go_on()  # code of a job may configure logging too, or the first import of its module
        if level and logger.isEnabledFor(level):
            said, trace = sentence(event), None
            if isinstance(event, telemetry.JobException):
                error = event.error if event.error is not None and exceptions.is_traced(event.error) else None
                if _hides(event.job):
                    # The error may hold what is hidden otherwise than as a text, which can't be taken out of it there.
                    said = _hidden(event.job, said if error is None else f"{said}\n{exceptions.traceback(error)}")
                elif error is not None:
                    trace = (type(error), error, exceptions.traceback_of(error))
            extra = {"event": event}
            logger.handle(logger.makeRecord(logger.name, level, *_PLACE, "%s", (said,), trace, _CALLER, extra))

    def _level(self, event: telemetry.Event) -> int:
        """Return the level for this very event; 0 is for what is not worth a line at any."""
        match event:
            case telemetry.JobStop():  # first, as most are this
                if event.state is JobState.AVAILABLE and (event.runner, event.queue, event.worker) in self._unknown:
                    # It was said of the worker, and is not said again of each of its jobs.
                    return logging.DEBUG
            case telemetry.JobException(state=state) if state is not JobState.DISCARDED:
                return logging.WARNING
            case telemetry.WorkerUnknown():
                self._unknown.add((event.runner, event.queue, event.worker))
            case telemetry.ProducerFetch(count=0) | telemetry.ProducerAck(count=0) | telemetry.StagerStage(count=0):
                return 0
            case telemetry.LifelineRescue(count=0):
                return 0
            case telemetry.RunnerRetry():
                # When the database is away every part fails, and `oban_sa.runner` says once that it is, and is back.
                if event.database_away or not self._begins(event, event.part, again=_is_milestone(event.attempt)):
                    return logging.DEBUG
            case telemetry.RunnerRecover():
                return logging.INFO if self._ends(event, event.part) else logging.DEBUG
            case telemetry.NotifierDisconnected():
                if not self._begins(event, "notifier"):
                    return logging.DEBUG
            case telemetry.NotifierConnected():
                self._ends(event, "notifier")
            case _:
                pass
        return _LEVELS[type(event)]

    def _begins(self, event: telemetry.Event, part: str, *, again: bool = False) -> bool:
        known = (event.runner, part) in self._told
        self._told.add((event.runner, part))
        return again or not known

    def _ends(self, event: telemetry.Event, part: str) -> bool:
        known = (event.runner, part) in self._told
        self._told.discard((event.runner, part))
        return known


# What `logger.log` would find for each line anew by walking the stack.
_CALLER: Final = _Story.write.__name__
_PLACE: Final = (_Story.write.__code__.co_filename, _Story.write.__code__.co_firstlineno)


def _is_milestone(attempt: int) -> bool:
    return attempt >= 8 and not attempt & (attempt - 1)


@cache
def _logger(name: str) -> logging.Logger:
    """Return the logger for events of this name."""
    return logging.getLogger("oban_sa." + name.split(".")[1])


def _hides(job: object) -> bool:
    return job is not None and hides(vars(job).get("meta"))


def _hidden(job: Any, said: str) -> str:
    from oban_sa.jobs import redaction  # few jobs hide anything

    return redaction.text(said.rstrip(), job.args, job.meta)
