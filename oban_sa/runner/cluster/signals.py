"""Signals: what a client of any member of the family orders this node to do with its queues and jobs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Protocol

from oban_sa.describe.choices import is_whole
from oban_sa.wire import messages

logger = logging.getLogger("oban_sa.runner")

LARGEST_LIMIT: Final = 2**31 - 1
"""The largest limit that `scale_queue` takes; a larger one is ignored."""

_KINDS: Final = 100


class Orders(Protocol):
    """What can be ordered of a runner's queues; none of these waits, and `"*"` is every queue."""

    def pause(self, queue: str) -> None:
        """Start no more jobs of a queue."""
        ...

    def resume(self, queue: str) -> None:
        """Start jobs of a queue again."""
        ...

    def scale(self, queue: str, limit: int) -> None:
        """Run so many jobs of a queue at once."""
        ...

    def start(self, queue: str, limit: int, *, paused: bool) -> None:
        """Work on a queue."""
        ...

    def stop(self, queue: str) -> None:
        """Work on a queue no more, once its running jobs have ended."""
        ...

    def cancel(self, job_id: int) -> None:
        """Ask a job to stop if it runs here."""
        ...


class Signals:
    """Turns the messages on `signal` that address this node into orders.

    Every role may send notifications, so a message that is not understood is ignored, with one warning for each kind.
    """

    def __init__(self, orders: Orders, *, name: str, node: str) -> None:
        self._orders = orders
        self._name = name
        self._node = node
        self._odd: set[str] = set()

    def receive(self, message: Mapping[str, object]) -> None:
        """Carry out a message that addresses this node, or ignore it; never raises."""
        try:
            if not isinstance(message.get("ident", messages.ANYONE), str):
                self._ignore("not addressed: its ident is no text", message)
            elif messages.addressed(message, self._name, self._node) and (odd := self._obey(message)):
                self._ignore(odd, message)
        except Exception as error:
            logger.exception("a signal could not be obeyed")
            self._ignore(f"failed with {type(error).__name__}", message)

    def _obey(self, message: Mapping[str, object]) -> str | None:
        """Carry out a message, or return what is wrong with it."""
        action, queue = message.get("action"), message.get("queue")
        if action == "pkill":
            job_id = message.get("job_id")
            if not is_whole(job_id):
                return "pkill without the job_id of a job"
            self._orders.cancel(job_id)
            return None
        if action not in _ACTIONS:
            return "an unknown action"
        if not isinstance(queue, str) or not queue:
            return f"{action} without the name of a queue"
        match action:
            case "pause":
                self._orders.pause(queue)
            case "resume":
                self._orders.resume(queue)
            case "stop":
                self._orders.stop(queue)
            case _:
                limit = message.get("limit")
                if not is_whole(limit, 1, LARGEST_LIMIT):
                    return f"{action} without a limit of at least 1"
                if action == "scale":
                    self._orders.scale(queue, limit)
                else:
                    self._orders.start(queue, limit, paused=message.get("paused") is True)
        return None

    def _ignore(self, odd: str, message: Mapping[str, object]) -> None:
        if odd not in self._odd and len(self._odd) < _KINDS:
            self._odd.add(odd)
            logger.warning("a signal was ignored, which is %s: %.200r", odd, dict(message))


_ACTIONS: Final = ("pause", "resume", "scale", "start", "stop")
