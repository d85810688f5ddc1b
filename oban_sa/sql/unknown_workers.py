"""Leave jobs to the programs that know their workers."""

from __future__ import annotations

from functools import cache
from typing import Final
from typing import cast as cast_type

from sqlalchemy import ColumnElement, DateTime, Double, Executable, Text, Uuid, bindparam, cast, func, select

from oban_sa.sql.expressions import array, inline, seconds_earlier, utc_clock, utc_now
from oban_sa.sql.fetch import Filter, jobs
from oban_sa.sql.producers import producers

NOTED: Final = "unknown"
"""The key in the `meta` of a producer's row: a list of objects with `worker`, `version` and `since`."""

SEPARATOR: Final = "\n"
"""What stands between the name of a worker and the version of args in the key of a job that is left to others."""


@cache
def known() -> ColumnElement[bool]:
    """Whether a job is not to be left to other programs.

    Parameters: `unknown`, keys of workers that this program does not know, each the name of the worker, and where it
    knows it, but not args of that version, also `SEPARATOR` and the version; `overdue`, those of them that no program
    knows; and `unknown_after`, for how many seconds a job of those must have been due to be taken all the same.
    """
    unknown, overdue = array("unknown", Text()), array("overdue", Text())
    # As text: any JSON value can be read so.
    version = func.coalesce(jobs.c.meta.op("->>")(inline("'args_version'")), inline("'1'"))
    key = jobs.c.worker + inline("E'\\n'") + version
    given_up = jobs.c.scheduled_at <= seconds_earlier(utc_now(), bindparam("unknown_after", type_=Double()))
    left = (jobs.c.worker == func.any(unknown)) | (key == func.any(unknown))
    of_no_program = (jobs.c.worker == func.any(overdue)) | (key == func.any(overdue))
    return ~left | (given_up & of_no_program)


@cache
def only_known() -> Filter:
    """The filter of a fetch with the condition `known`."""
    return Filter(conditions=(known(),), leaves=True)


def named(noted: object) -> list[str]:
    """Return in words what a producer's row has under `NOTED`: `shop.Send`, `shop.Send (args of version 3)`."""
    found: list[str] = []
    for each in cast_type("list[object]", noted) if isinstance(noted, list) else []:
        entry = cast_type("dict[str, object]", each) if isinstance(each, dict) else {}
        worker, version = entry.get("worker"), entry.get("version")
        if isinstance(worker, str):
            found.append(worker if version is None else f"{worker} (args of version {version})")
    return found


def review() -> Executable:
    """One row: `now`, and `others`, a JSON array of what each other producer of a queue does not know, or null.

    Parameters: `queue` and `producer`, the uuid of the one that asks.
    """
    noted = func.coalesce(producers.c.meta.op("->")(inline(f"'{NOTED}'")), inline("'[]'::jsonb"))
    others = (
        select(cast(func.jsonb_agg(noted), Text))
        .where(
            producers.c.queue == bindparam("queue", type_=Text()),
            producers.c.uuid != bindparam("producer", type_=Uuid()),
        )
        .scalar_subquery()
    )
    return select(
        func.timezone(inline("'UTC'"), utc_clock(), type_=DateTime(timezone=True)).label("now"), others.label("others")
    )
