"""Tell handlers of telemetry which unique jobs a flush did not insert."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from oban_sa.outbox.announcements import schema_of

if TYPE_CHECKING:
    from oban_sa.jobs.unique import Conflict


def tell(connection: Connection, lost: Sequence[tuple[Mapping[str, object], Conflict]]) -> None:
    """Tell of jobs, of each what it was, and what stood in its way."""
    # Where telemetry was never imported nothing listens.
    if "oban_sa.telemetry" not in sys.modules:
        return
    from oban_sa import telemetry

    if not telemetry.listening(telemetry.UniqueConflict):
        return
    from oban_sa.settings.options import default_node

    source = telemetry.Source(node=default_node(), schema=schema_of(connection))
    for given, conflict in lost:
        telemetry.emit(
            telemetry.UniqueConflict(
                runner=source,
                worker=str(given.get("worker")),
                queue=str(given.get("queue") or "default"),
                job_id=conflict.id,
                state=conflict.state,
                replaced=conflict.replaced,
            )
        )
