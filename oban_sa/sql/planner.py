"""Looks that read a little by an index each, and what keeps the planner from doing it in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Executable, func, select

from oban_sa.sql.expressions import inline

_PLAINLY: Final[Mapping[str, str]] = {
    # What is expected is expensive enough to be compiled first, which takes several times as long as the looks.
    "jit": "off",
    # Where it is not known how full the table is, or where ten thousand rows seem many, reading all of it looks
    # cheaper than finding them by their ids.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # To start workers takes longer than to read a little, and a plan of theirs says less about each part.
    "max_parallel_workers_per_gather": "0",
}


def plainly() -> Executable:
    """Tell the server to find by index what the rest of this transaction reads, and not to compile how.

    The planner can't see how little that is: that a walk along an index ends after a few steps, or that a queue has
    three jobs.
    """
    return _set(_PLAINLY)


def read_only(timeout: float) -> Executable:
    """Let the rest of this transaction change nothing, and no statement take longer than `timeout` seconds."""
    settings = {
        "transaction_read_only": "on",
        "jit": "off",
        "statement_timeout": str(max(1, round(timeout * 1000))),
    }
    return _set(settings)


def _set(settings: Mapping[str, str]) -> Executable:
    return select(
        *(
            func.set_config(inline(f"'{name}'"), inline(f"'{value}'"), inline("true"))
            for name, value in settings.items()
        )
    )
