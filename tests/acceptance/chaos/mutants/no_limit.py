"""A queue runs as many jobs at once as it finds."""

from __future__ import annotations

from oban_sa.runner.queue.producer import Producer

PROMISES = ("limit",)
KIND = "mixed"


def _demand(self: Producer) -> int:
    return 0 if self.paused or not self.state.fetches else 10


Producer.demand = _demand  # type: ignore[method-assign]
