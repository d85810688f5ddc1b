"""The functions that listen to events, and how each event reaches them."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from oban_sa.describe import callables, exceptions
from oban_sa.errors import InvalidOption
from oban_sa.hooks import JOBS_ENQUEUED
from oban_sa.telemetry.events import Event, JobsEnqueued

logger = logging.getLogger("oban_sa.telemetry")

E = TypeVar("E", bound=Event)
_AnyHandler = Callable[[Any], object]

_lock = threading.Lock()
_attached: list[Attachment] = []


@dataclass(slots=True, eq=False)
class Attachment:
    """A handler and the classes of the events that reach it; `raised` is whether it ever did."""

    handler: _AnyHandler
    events: tuple[type[Event], ...]
    raised: bool = False


class _Listeners(dict[type[Event], tuple[Attachment, ...]]):
    def __missing__(self, event: type[Event]) -> tuple[Attachment, ...]:
        # Under the lock, so that a handler attached meanwhile can't be hidden by an answer computed before it came.
        with _lock:
            found = self[event] = tuple(each for each in _attached if issubclass(event, each.events))
            return found


listeners: Final[Mapping[type[Event], tuple[Attachment, ...]]] = (_found := _Listeners())
"""What an event of each class reaches; `listeners[JobStart]` costs less than a call, where one is made for each job."""


def _changed() -> None:
    _found.clear()
    JOBS_ENQUEUED.on = any(issubclass(JobsEnqueued, each.events) for each in _attached)


def attach(handler: Callable[[E], object], *events: type[E]) -> Callable[[], None]:
    """Call `handler` with every event of these classes, or with every event where none is given, until detached.

    Returns a function that detaches it. A coroutine function is refused: events do not wait.
    """
    if callables.is_async(handler) or callables.yields(handler):
        how = "generator" if callables.yields(handler) else "coroutine"
        raise InvalidOption(
            f"the telemetry handler {exceptions.shown(handler)} is a {how} function, but events don't wait; "
            "attach a plain function, which may start a task of its own"
        )
    for event in cast("tuple[object, ...]", events):
        if not inspect.isclass(event) or not issubclass(event, Event):
            raise InvalidOption(f"{event!r} is not a class of events; give for example telemetry.JobStop")
    attachment = Attachment(handler, events or (Event,))
    with _lock:
        _attached.append(attachment)
        _changed()

    def detach() -> None:
        with _lock:
            if attachment in _attached:
                _attached.remove(attachment)
                _changed()

    return detach


def listening(event: type[Event]) -> bool:
    """Say whether an event of this class would reach a handler, for places too hot to build one in vain."""
    return bool(listeners[event])


def emit(event: Event) -> None:
    """Call every handler of this event; nothing that one raises reaches the caller, except KeyboardInterrupt."""
    for attachment in listeners[type(event)]:
        try:
            attachment.handler(event)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a handler that calls sys.exit() must not stop the runner either
            if not attachment.raised:
                attachment.raised = True
                logger.exception(
                    "the telemetry handler %s raised on %s; it stays attached, further errors of it are not logged",
                    exceptions.shown(attachment.handler),
                    event.name,
                )
