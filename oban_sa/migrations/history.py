"""The versions in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast

from alembic.operations import Operations

from oban_sa.migrations.versions import (
    v01_everything,
    v02_unique_and_limits,
    v03_flows,
    v04_steps,
    v05_metrics,
    v06_open_flows,
)


class Version(Protocol):
    """A version: `up` makes what it adds, `down` drops that; both may run again."""

    __name__: str
    up: Callable[[Operations, str], None]
    down: Callable[[Operations, str], None]


VERSIONS: Final = cast(
    "tuple[Version, ...]",
    (v01_everything, v02_unique_and_limits, v03_flows, v04_steps, v05_metrics, v06_open_flows),
)
"""As many as `oban_sa.catalog.version.LATEST` says, which a program that migrates nothing reads without Alembic."""
