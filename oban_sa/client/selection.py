"""The jobs that a caller chooses: by id, as a job, several of these, by a SELECT, or by conditions.

Other transactions change jobs between the moment a SELECT finds them and the moment their rows are locked. A condition
on the job's own columns is evaluated again by PostgreSQL in the statement that locks (EvalPlanQual). What any other
SELECT found is locked by a first statement, and a second one runs the SELECT again, with a snapshot taken after the
locks: only jobs that both found are changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from sqlalchemy import BigInteger, ColumnElement, CompoundSelect, Select, func, inspect, select
from sqlalchemy.sql.selectable import SelectBase

from oban_sa.client.transactions import Work
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.models import Job, validation
from oban_sa.sql.control import by_ids, lock
from oban_sa.sql.expressions import array
from oban_sa.sql.fetch import jobs
from oban_sa.sql.recheck import condition_of, condition_on_jobs, unlimited

Which: TypeAlias = int | Job | Iterable[int | Job] | Select[Any] | CompoundSelect[Any] | ColumnElement[bool]
"""Jobs by id, as objects, several of either, by `select(Job)...`, or by a condition: `Job.queue == "mailers"`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Jobs that were chosen: by a SELECT of their ids (`query`), or one by one (`chosen`)."""

    query: Select[Any] | None
    chosen: tuple[int | Job, ...] = ()
    again: Select[Any] | None = None
    """Selects which of the locked jobs, in the parameter `ids`, still match, where `query` can't be evaluated again."""

    def statement(self) -> Select[Any]:
        """Return the SELECT of their ids; its parameter `ids` is for those chosen one by one, or locked before."""
        return by_ids() if self.query is None else self.query if self.again is None else self.again

    def ids(self) -> list[int]:
        """Return the ids of those chosen one by one; pending jobs must have been flushed.

        Raises `InvalidJob` for a job that was never enqueued.
        """
        return [identity(each) for each in self.chosen]


def selection(which: object, more: tuple[object, ...] = ()) -> Selection:
    """Read what a caller gave to choose jobs; raises `InvalidOption` for anything else."""
    if _is_condition(which) or more:
        conditions: list[ColumnElement[bool]] = []
        for condition in (which, *more):
            if not _is_condition(condition):
                raise InvalidOption(
                    f"{condition!r} is no condition on jobs; write Job.queue == 'mailers', or give ids as one list"
                )
            conditions.append(condition)
        return _selected(select(jobs.c.id).where(*conditions))
    if isinstance(which, SelectBase):
        return _selected(which)
    if isinstance(which, (int, Job)):
        return Selection(None, (_one(which),))
    if isinstance(which, Iterable) and not isinstance(which, (str, bytes)):
        return Selection(None, tuple(_one(each) for each in which))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise InvalidOption(
        f"jobs are chosen by id, as Job, as a list of these, by select(Job) or a condition; got {which!r}"
    )


def one(which: int | Job) -> Selection:
    """Read what a caller gave to choose one job."""
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


def parameters(
    work: Work, command: Callable[..., Any], chosen: Selection, **channels: str | None
) -> tuple[Select[Any], dict[str, object]] | None:
    """Return the SELECT of the jobs chosen and its parameters, or None where none was chosen."""
    parameters: dict[str, object] = {name: channel for name, channel in channels.items() if channel is not None}
    if chosen.query is not None and chosen.again is None:
        return chosen.query, parameters
    if chosen.query is None:
        parameters["ids"] = chosen.ids()
    else:
        # In a statement of its own: the snapshot of the next one is taken after the locks, so it sees the rows as the
        # transactions that had them locked left them.
        parameters["ids"] = list(work.execute(lock(command, chosen.query)).scalars())
    if not parameters["ids"]:
        return None
    return chosen.statement(), parameters


def _one(which: object) -> int | Job:
    if isinstance(which, Job):
        return which
    if isinstance(which, bool):
        raise InvalidOption(f"{which} is no job; a condition compares columns of the class: Job.state == 'available'")
    if isinstance(which, int):
        return validation.identity(which)
    raise InvalidOption(f"a job is chosen by its id or as a Job, got {which!r}")


def _is_condition(which: object) -> TypeGuard[ColumnElement[bool]]:
    return isinstance(which, ColumnElement) and not isinstance(which, SelectBase)


def _selected(query: SelectBase) -> Selection:
    if (plain := condition_of(query)) is not None:
        return Selection(plain)
    found = _ids_of(query)
    if condition_on_jobs(found) is not None:
        return Selection(found)
    locked = array("ids", BigInteger())
    still = _ids_of(unlimited(query)).scalar_subquery()
    return Selection(found, again=select(jobs.c.id).where(jobs.c.id == func.any(locked), jobs.c.id.in_(still)))


def _ids_of(query: SelectBase) -> Select[Any]:
    # As a subquery, so that its order, limit, joins and unions keep their meaning.
    inner = query.subquery("oban_selected")
    column = inner.corresponding_column(jobs.c.id)
    if column is None:
        raise InvalidOption("this SELECT has no jobs among its columns; write select(Job)... or select(Job.id)...")
    return select(column)
