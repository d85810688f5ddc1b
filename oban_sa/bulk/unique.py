"""Unique jobs of a query: which a statement can write, and how often it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, FromClause

from oban_sa.errors import InvalidOption, UniqueBusy
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.models.base import Expression
from oban_sa.outbox.claim import explaining, hurrying, must_come_early, note_claimed
from oban_sa.sql.insert_unique import inserting_again, inserting_unique

TURNS: Final = 1_000
"""How often jobs are claimed again; each time another transaction has committed one of their keys."""

_SURELY: Final = 1
"""Seconds from now at which a job is scheduled, and not available by the time its row is made."""


@dataclass(frozen=True, slots=True)
class UniqueSelect:
    """Jobs of a query that are unique, ready to be written."""

    rows: FromClause
    columns: Mapping[str, Expression]
    unique: Unique

    def write(self, connection: Connection) -> Written:
        """Write the jobs whose keys are free; raises `UniqueBusy`."""
        statement = inserting_unique(self.rows, self.columns, self.unique)
        given: dict[str, object] = {}
        made: Counter[str] = Counter()
        available: set[str] = set()
        rows = 0
        with hurrying(connection, needed=must_come_early(connection)):
            for _ in range(TURNS):
                with explaining():
                    answer = connection.execute(statement, given).mappings().one()
                note_claimed(connection)
                rows = rows or answer["rows"]  # which a later turn has but some of
                for queue, number, is_available in values.from_json(answer["made"] or "[]"):
                    made[queue] += number
                    if is_available:
                        available.add(queue)
                if answer["lost"] is None:
                    return Written(made, rows - made.total(), available)
                statement, given = inserting_again(self.unique), {"rows": answer["lost"]}
        raise UniqueBusy("other transactions claim the unique keys of these jobs again and again; try it later")


@dataclass(frozen=True, slots=True)
class Written:
    """How many jobs of each queue were written, how many rows became none, and the queues that have available ones."""

    made: Mapping[str, int]
    conflicts: int
    queues: set[str]

    @property
    def number(self) -> int:
        """How many jobs were written."""
        return sum(self.made.values())


def check(unique: Unique, *, worker: str, moment: str | None, by_row: bool, span: float | None) -> None:
    """Refuse what the rows of a query can't be compared by; raises `InvalidOption`.

    `moment` is the option that says when the jobs are due, where one does; `by_row` says that it is an expression, and
    `span` is its seconds, where it is the same span for all.
    """
    instead = "or read the rows, and write enqueue_many(session, jobs)"
    if unique.replaced:
        raise InvalidOption(
            f"jobs of {worker} replace what stands in their way, and enqueue_select does not; write for example "
            f"unique=Unique(...) without replace, {instead}"
        )
    states = [JobState.AVAILABLE] if moment is None else [JobState.AVAILABLE, JobState.SCHEDULED]
    if span is not None and span >= _SURELY:
        states = [JobState.SCHEDULED]
    if missing := [state.value for state in states if state not in unique.blocking]:
        raise InvalidOption(
            f"jobs of {worker} are unique beside others that are {', '.join(unique.blocking)}, and those of a select "
            f"may be {' or '.join(missing)}: two rows with one key are compared by no statement. Write for example "
            f"unique=Unique(group='incomplete'), {instead}"
        )
    if unique.seconds is not None and by_row:
        raise InvalidOption(
            f"jobs of {worker} are unique for a period, and {moment} differs by row: two rows with one key are "
            f"compared by no statement. Write for example unique=Unique(...) without period, {instead}"
        )
