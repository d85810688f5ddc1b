"""Which jobs somebody means: an id, a job, several of them, a SELECT, or conditions.

Others change jobs between the moment a SELECT finds them and the moment their rows are locked. A condition on the job's
own columns is looked at again by the statement that locks. What other SELECTs found is locked first, and they are asked
again by a second statement, which sees what was committed until then: only jobs that both found are changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, ColumnElement, CompoundSelect, Select, bindparam, cast, func, inspect, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import SelectBase

from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.models import Job, rules
from oban_sa.sql.fetching import jobs
from oban_sa.sql.rechecking import condition_of, condition_on_jobs, unlimited
from oban_sa.sql.steering import by_ids

Which: TypeAlias = int | Job | Iterable[int | Job] | Select[Any] | CompoundSelect[Any] | ColumnElement[bool]
"""Jobs by id, as objects, several of either, by `select(Job)...`, or by a condition: `Job.queue == "mailers"`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Jobs that were chosen: by a SELECT of their ids, or one by one."""

    query: Select[Any] | None
    chosen: tuple[int | Job, ...] = ()
    again: Select[Any] | None = None
    """Finds which of the jobs in the parameter `ids` are still meant, where `query` can't say so once it has locked."""

    def statement(self) -> Select[Any]:
        """Return the SELECT of their ids, with a parameter `ids` where they were chosen one by one, or found before."""
        return by_ids() if self.query is None else self.query if self.again is None else self.again

    def ids(self) -> list[int]:
        """Return the ids of those chosen one by one; pending jobs must have been flushed.

        Raises `InvalidJob` for a job that was never enqueued.
        """
        return [identity(each) for each in self.chosen]


def selection(which: Any, more: tuple[Any, ...] = ()) -> Selection:
    """Read what the caller means; raises `InvalidOption` where that is not clear."""
    if _is_condition(which) or more:
        conditions = (which, *more)
        for condition in conditions:
            if not _is_condition(condition):
                raise InvalidOption(
                    f"{condition!r} is no condition on jobs; write Job.queue == 'mailers', or give ids as one list"
                )
        return _asked(select(jobs.c.id).where(*conditions))
    if isinstance(which, SelectBase):
        return _asked(which)
    if isinstance(which, (int, Job)):
        return Selection(None, (_one(which),))
    if isinstance(which, Iterable) and not isinstance(which, (str, bytes)):
        return Selection(None, tuple(_one(each) for each in which))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise InvalidOption(
        f"jobs are chosen by id, as Job, as a list of these, by select(Job) or a condition; got {which!r}"
    )


def one(which: int | Job) -> Selection:
    """Read the one job that the caller means."""
    return Selection(None, (_one(which),))


def identity(which: int | Job) -> int:
    """Return the id of a job, which may be expired or detached."""
    if isinstance(which, int):
        return which
    key = inspect(which).identity
    found: int | None = key[0] if key else which.__dict__.get("id")
    if found is None:
        raise InvalidJob(f"{which} has no id: it was not enqueued yet")
    return found


def _one(which: Any) -> int | Job:
    if isinstance(which, Job):
        return which
    if isinstance(which, bool):
        raise InvalidOption(f"{which} is no job; a condition compares columns of the class: Job.state == 'available'")
    if isinstance(which, int):
        return rules.identity(which)
    raise InvalidOption(f"a job is chosen by its id or as a Job, got {which!r}")


def _is_condition(which: object) -> bool:
    return isinstance(which, ColumnElement) and not isinstance(which, SelectBase)


def _asked(query: SelectBase) -> Selection:
    if (plain := condition_of(query)) is not None:
        return Selection(plain)
    found = _ids_of(query)
    if condition_on_jobs(found) is not None:
        return Selection(found)
    locked = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    still = _ids_of(unlimited(query)).scalar_subquery()
    return Selection(found, again=select(jobs.c.id).where(jobs.c.id == func.any(locked), jobs.c.id.in_(still)))


def _ids_of(query: SelectBase) -> Select[Any]:
    # As a subquery, so that its order, limit, joins and unions mean what they say.
    inner = query.subquery("oban_selected")
    column = inner.corresponding_column(jobs.c.id)
    if column is None:
        raise InvalidOption("this SELECT has no jobs among its columns; write select(Job)... or select(Job.id)...")
    return select(column)
