"""Figures for Prometheus: what runners count, and how it is written.

`Runner(prometheus=True)` serves them at `/metrics` of its health port; `Collector` gives them to a registry of the
program's own, as it does those of `Enqueued`, which counts in a program without a runner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oban_sa.prometheus.counts import Enqueued
    from oban_sa.prometheus.exposition import Collector

__all__ = ["Collector", "Enqueued"]


def __getattr__(name: str) -> object:
    # Late: runners count without the client library, which only writes what they have counted.
    if name == "Collector":
        from oban_sa.prometheus.exposition import Collector

        return Collector
    if name == "Enqueued":
        from oban_sa.prometheus.counts import Enqueued

        return Enqueued
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
