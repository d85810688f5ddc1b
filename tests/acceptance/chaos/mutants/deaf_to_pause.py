"""A paused queue is fetched from."""

from __future__ import annotations

from typing import Any

from oban_sa.runner.queue.producer import Producer

PROMISES = ("pause",)
KIND = "mixed"


def _keep(_self: Producer, _paused: bool) -> None:
    pass


_paused: Any = property(lambda _self: False, _keep)
Producer.paused = _paused
